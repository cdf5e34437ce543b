"""The server of everopen: wire, admission, matching, journal, acknowledgement, events."""
