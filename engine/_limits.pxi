# Every bound of the engine. The relations between them are asserted in engine/limits.py at import.
# Units stand in the names: *_MS milliseconds, *_BYTES bytes, *_MINOR minor units of a currency; the rest are counts.

cdef extern from *:
    """
    enum {
        ID_BYTES_MAX = 64,
        REGION_BYTES_MAX = 64,
        REASON_BYTES_MAX = 128,
        CURRENCY_BYTES = 3,
        LOG_ID_BYTES = 16,

        LINES_MAX = 64,                    /* lines of one order */
        ALLOCATIONS_MAX = 256,             /* of one order; a plan that needs more does not fit */
        ORDER_COMMANDS_MAX = 1024,         /* commands and payments remembered by one order */
        ORDER_PAYMENTS_KEPT = 256,         /* of these, kept for payments: other commands cannot use them up */
        ATTRIBUTES_MAX = 16,
        ATTRIBUTES_BYTES_MAX = 256,
        PRIORITY_CLASS_MAX = 9,
        BATCH_ITEMS_MAX = 1024,
        MESSAGE_BYTES_MAX = 4 * 1024 * 1024,
        RECORD_BYTES_MAX = 4 * 1024 * 1024,    /* one record of the log */
        RECORD_COMMAND_BYTES_MAX = 64 * 1024,  /* one command in canonical form */
        ARCHIVED_ORDER_BYTES_MAX = 192 * 1024, /* an order as the archive has it; a Restore carries one */

        PARTITIONS = 1024,
        LOCATIONS_PER_SHOP_MAX = 256,
        REGIONS_PER_SHOP_MAX = 1024,
        REGION_COSTS_MAX = 1024,
        REGION_COST_DEFAULT = 1000000,
        SAFETY_OVERRIDES_MAX = 256,
        SHOPS_MAX = 1000000,
        SKUS_MAX = 16000000,
        ORDERS_MAX = 200000000,
        DURATIONS_MAX = 256,               /* distinct reserve TTLs, and distinct buyer windows, of a shard */

        BACKORDER_LOOKAHEAD_MAX = 64,      /* backorders of a SKU that one match looks at */
        BACKORDER_PASSES_MAX = 8,          /* how often the head of a queue may be passed */
        STEPS_MAX = 4096,                  /* lines and allocations that a tick or match may touch */
        EVICT_STEPS_MAX = 1024,            /* likewise an Evict, commands too; fewer, since nobody waits for it */

        IDEMPOTENCY_ENTRIES_DEFAULT = 10000000,
        LEVEL_MAX = 2,

        WORKERS_MAX = 64,
        SHARDS_MAX = 64,
        BOARD_SLOT_BYTES = 4096,           /* a page, so that no two workers write the same cache line */
        MARK_PAGE_BYTES = 4096,            /* of each shard, behind the slots */
        MARK_EVERY = 16384,                /* commands between two digest marks */
        SHARD_PAGE_BYTES = 4096,           /* figures of a shard, behind the marks */
        STAGES_BYTES = 8192,               /* histograms of a worker's stages, behind these */
        SPANS_KEPT = 4096,                 /* of each worker, until they are taken */
        RING_BYTES = 4 * 1024 * 1024,      /* what a ring holds; its header comes on top */
        RING_MESSAGE_BYTES_MAX = 64 * 1024 * 1024,
    };
    static const int64_t QUANTITY_MAX = 100000000;              /* units of one line */
    static const int64_t STOCK_MAX = 1000000000000;             /* any counter of a stock row, units */
    static const int64_t PRICE_MINOR_MAX = 1000000000000;
    static const int64_t AMOUNT_MINOR_MAX = 1000000000000000;   /* a line, an order, all payments of an order */
    static const int64_t TIME_MS_MAX = 253402300799999;         /* the end of the year 9999; fits 48 bits */
    static const int64_t RESERVE_TTL_MS_DEFAULT = 900000;
    static const int64_t RESERVE_TTL_MS_MAX = 2592000000;       /* 30 days */
    static const int64_t BUYER_WINDOW_MS_DEFAULT = 86400000;
    static const int64_t BUYER_WINDOW_MS_MAX = 7776000000;      /* 90 days */
    static const int64_t IDEMPOTENCY_WINDOW_MS_DEFAULT = 3600000;
    """
    const int ID_BYTES_MAX, REGION_BYTES_MAX, REASON_BYTES_MAX, CURRENCY_BYTES, LOG_ID_BYTES
    const int LINES_MAX, ALLOCATIONS_MAX, ORDER_COMMANDS_MAX, ORDER_PAYMENTS_KEPT, ATTRIBUTES_MAX, ATTRIBUTES_BYTES_MAX
    const int PRIORITY_CLASS_MAX, BATCH_ITEMS_MAX, MESSAGE_BYTES_MAX, RECORD_BYTES_MAX, RECORD_COMMAND_BYTES_MAX
    const int ARCHIVED_ORDER_BYTES_MAX, EVICT_STEPS_MAX
    const int PARTITIONS, LOCATIONS_PER_SHOP_MAX, REGIONS_PER_SHOP_MAX, REGION_COSTS_MAX, REGION_COST_DEFAULT
    const int SAFETY_OVERRIDES_MAX, SHOPS_MAX, SKUS_MAX, ORDERS_MAX, DURATIONS_MAX
    const int BACKORDER_LOOKAHEAD_MAX, BACKORDER_PASSES_MAX, STEPS_MAX, IDEMPOTENCY_ENTRIES_DEFAULT, LEVEL_MAX
    const int WORKERS_MAX, SHARDS_MAX, BOARD_SLOT_BYTES, MARK_PAGE_BYTES, MARK_EVERY, RING_BYTES, RING_MESSAGE_BYTES_MAX
    const int SHARD_PAGE_BYTES, STAGES_BYTES, SPANS_KEPT
    const int64_t QUANTITY_MAX, STOCK_MAX, PRICE_MINOR_MAX, AMOUNT_MINOR_MAX, TIME_MS_MAX
    const int64_t RESERVE_TTL_MS_DEFAULT, RESERVE_TTL_MS_MAX, BUYER_WINDOW_MS_DEFAULT, BUYER_WINDOW_MS_MAX
    const int64_t IDEMPOTENCY_WINDOW_MS_DEFAULT
