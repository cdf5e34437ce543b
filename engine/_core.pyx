"""The native core of everopen: one translation unit, made of the included files in the order of the data."""

# What all stages share.
include "_platform.pxi"
include "_system.pxi"
include "_limits.pxi"
include "_types.pxi"

# Wire: request bytes <-> fixed-width commands and views.
include "_wire_read.pxi"
include "_wire_write.pxi"
include "_wire_request.pxi"
include "_wire_decode.pxi"
include "_wire_encode.pxi"
include "_wire_status.pxi"

# Checksums, of what lies in the log and in the archive.
include "_crc32c.pxi"

# Shared memory between workers.
include "_histogram.pxi"
include "_spans.pxi"
include "_board_figures.pxi"
include "_board.pxi"
include "_marks.pxi"
include "_ring.pxi"

# Match: the state machine.
include "_arena.pxi"
include "_state.pxi"
include "_digest.pxi"
include "_order_view.pxi"
include "_remember.pxi"
include "_stock.pxi"
include "_catalogue.pxi"
include "_allocate.pxi"
include "_holds.pxi"
include "_backorder.pxi"
include "_orders.pxi"
include "_lifecycle.pxi"
include "_order_item.pxi"
include "_retention.pxi"
include "_execute.pxi"
include "_ready.pxi"
include "_check.pxi"

# Log: what is durable, and how it is read again.
include "_disk.pxi"
include "_journal_format.pxi"
include "_journal_reader.pxi"
include "_journal_writer.pxi"
include "_journal_prepare.pxi"
include "_journal_open.pxi"
include "_journal_border.pxi"
include "_keyed.pxi"
include "_snapshot_format.pxi"
include "_snapshot_sort.pxi"
include "_snapshot_file.pxi"
include "_snapshot_write.pxi"
include "_snapshot_read.pxi"
include "_snapshot_section.pxi"

# Route: which shard a request is for.
include "_route.pxi"

# Wiring.
include "_clock.pxi"
include "_ahead.pxi"
include "_shard.pxi"
include "_snapshot_load.pxi"
include "_snapshot_save.pxi"
include "_engine.pxi"
include "_follow.pxi"

# Only for tests: all of the above on a disk and a clock that they make up.
include "_simulated_process.pxi"
include "_simulation.pxi"

# Front: sockets, HTTP/2 and gRPC, and the way of a call from there to a shard and back.
include "_nghttp2.pxi"
include "_front_bucket.pxi"
include "_front_load.pxi"
include "_front_memory.pxi"
include "_front_methods.pxi"
include "_front_types.pxi"
include "_front_trace.pxi"
include "_front_headers.pxi"
include "_front_message.pxi"
include "_front_reply.pxi"
include "_front_call.pxi"
include "_front_archive.pxi"
include "_front_shard.pxi"
include "_front_link.pxi"
include "_front_handover.pxi"
include "_front_health.pxi"
include "_front_upstream.pxi"
include "_front_relay.pxi"
include "_front_guard.pxi"
include "_front_session.pxi"
include "_front_balance.pxi"
include "_front_figures.pxi"
include "_front_loop.pxi"
include "_front.pxi"
