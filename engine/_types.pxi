# The vocabulary that all stages share: fixed-width commands, views for answers and effects, faults.
# Spans point into the request's own bytes or into the state; whoever holds one must not outlive either.
# Structs that end up as array sizes in C are declared in C, since their bounds are C constants.

cdef extern from *:
    """
    typedef struct { const uint8_t* data; uint32_t size; } Span;

    /* Methods; the kinds of log records are the commands among them. Zero is never valid. */
    enum {
        PLACE_ORDER = 1, PAY_ORDER, CANCEL_ORDER, SHIP_ORDER, DELIVER_ORDER, RETURN_ORDER, SETTLE_REFUND,
        PUT_SHOP, PUT_LOCATION, PUT_SKU, ADJUST_STOCK, TRANSFER_STOCK,
        TICK, ACTIVATE, EVICT, RESTORE,
        COMMAND_KINDS,
        GET_ORDER = 32, GET_STOCK,
    };

    /* google.rpc.Code, the ones in use. */
    enum {
        CODE_OK = 0, CODE_INVALID_ARGUMENT = 3, CODE_NOT_FOUND = 5, CODE_ALREADY_EXISTS = 6,
        CODE_RESOURCE_EXHAUSTED = 8, CODE_ABORTED = 10, CODE_UNIMPLEMENTED = 12,
        CODE_DATA_LOSS = 15,
    };

    enum {
        OUTCOME_PLACED = 1, OUTCOME_BACKORDERED, OUTCOME_APPLIED, OUTCOME_RETRY_TOO_OLD, OUTCOME_NOT_FOR_SALE,
        OUTCOME_PRICE_CHANGED, OUTCOME_BUYER_LIMIT, OUTCOME_INSUFFICIENT_STOCK, OUTCOME_ILLEGAL_STATE, OUTCOMES,
    };

    enum { RESOURCE_SHOP = 1, RESOURCE_LOCATION, RESOURCE_SKU, RESOURCE_ORDER };

    /* Why a command was not decided. `field` is a path: field, field[index] or field[index].subfield. */
    typedef struct {
        int code;                 /* CODE_*, CODE_OK when there is no fault */
        const char* reason;       /* ErrorInfo.reason */
        const char* field;        /* INVALID_ARGUMENT; NULL: the message as a whole */
        int index;                /* -1: no index */
        const char* subfield;     /* NULL: none */
        const char* description;  /* a sentence */
        int resource;             /* NOT_FOUND and ALREADY_EXISTS: RESOURCE_* */
        Span shop_id, id;
    } Fault;

    typedef struct {
        Span sku_id;
        uint32_t quantity;
        uint8_t has_amount, has_expected_price;
        int64_t amount, expected_price;
    } PlaceLine;

    /* Every command begins like this. `canonical` is the whole request in canonical protobuf bytes: fields ascending,
       defaults and unknown fields left out, map entries sorted by key. Its first `content_size` bytes are the content
       (all but field 15, which is never content). */
    typedef struct { Span canonical; uint32_t content_size; Span shop_id; } CommandHead;

    typedef struct {
        CommandHead head;
        Span order_id, buyer_id, region;
        uint8_t strategy;
        int8_t allow_split;       /* -1: not given */
        uint8_t priority_class;
        uint32_t line_count;
        int64_t placed_at_ms, first_sent_at_ms;
        PlaceLine lines[LINES_MAX];
    } PlaceOrder;

    typedef struct { uint32_t line_index, quantity; Span location_id; } LineQuantity;

    /* Pay, cancel, ship, deliver, return, settle. */
    typedef struct {
        CommandHead head;
        Span order_id, command_id;    /* command_id: payment_id for PAY_ORDER */
        int64_t amount;               /* pay, settle */
        uint8_t disposition;          /* return: 1 to stock, 2 write off (a default is filled in) */
        Span location_id;             /* return */
        uint32_t line_count;          /* 0: everything that can be */
        LineQuantity lines[ALLOCATIONS_MAX];
    } OrderCommand;

    typedef struct { Span from_region, to_region; uint32_t cost; } RegionCost;

    typedef struct {
        CommandHead head;
        uint8_t currency[CURRENCY_BYTES];   /* defaults are filled in */
        uint8_t strategy, allow_split, status;
        uint8_t has_if_revision;
        uint64_t if_revision;
        uint32_t cost_count;
        RegionCost costs[REGION_COSTS_MAX];
    } PutShop;

    typedef struct {
        CommandHead head;
        Span location_id, region;
        uint8_t kind, status, has_if_revision;
        uint32_t priority;
        uint64_t if_revision;
    } PutLocation;

    typedef struct { Span location_id; uint32_t quantity; } SafetyStock;

    typedef struct {
        CommandHead head;
        Span sku_id;
        int64_t price, buyer_window_ms, reserve_ttl_ms;   /* defaults are filled in */
        uint32_t buyer_limit_per_order, buyer_limit_per_window, backorder_limit, safety_stock;
        uint8_t status, backorder_allowed, has_if_revision;
        uint64_t if_revision;
        uint32_t override_count;
        SafetyStock overrides[SAFETY_OVERRIDES_MAX];
    } PutSku;

    /* Adjust and transfer. */
    typedef struct {
        CommandHead head;
        Span id, sku_id, location_id, to_location_id;     /* to_location_id: transfer */
        int64_t quantity, first_sent_at_ms;               /* quantity: delta or count for adjust */
        uint8_t kind;                                     /* adjust: 1 restock, 2 adjust, 3 count (resolved) */
    } StockCommand;

    typedef struct { Span shop_id, id; } GetRequest;      /* id: order_id or sku_id */

    typedef struct { uint32_t level, entries_max; int64_t window_ms; Span canonical; } Activate;

    typedef struct { uint64_t closed_sequence; Span canonical; } Evict;

    typedef struct { Span shop_id, item, canonical; } Restore;

    /* What an order, an allocation, a stock row look like from outside. Enum values are those of the proto files. */
    typedef struct {
        Span sku_id;
        int64_t amount;
        uint32_t quantity, open, shipped, cancelled, delivered, returned, written_off;
    } LineView;

    typedef struct { Span location_id; uint32_t line_index, quantity, shipped, released; } AllocationView;

    typedef struct {
        Span order_id, shop_id, buyer_id;
        uint8_t state, payment_state, currency[CURRENCY_BYTES];
        int64_t amount, received, refunded, refund_due, accepted_at_ms, expires_at_ms, placed_at_ms;
        uint64_t sequence;
        uint32_t line_count, allocation_count;
        LineView lines[LINES_MAX];
        AllocationView allocations[ALLOCATIONS_MAX];
    } OrderView;

    typedef struct {
        Span shop_id, sku_id, location_id;
        int64_t on_hand, reserved, available, sellable, safety_stock;
        int64_t received, adjusted, moved_in, moved_out, returned, shipped, written_off;
    } StockView;

    /* A growing run of bytes. `size` is what is filled. */
    typedef struct { uint8_t* data; size_t size, capacity; } Buffer;
    """
    ctypedef struct Span:
        const uint8_t* data
        uint32_t size

    const int PLACE_ORDER, PAY_ORDER, CANCEL_ORDER, SHIP_ORDER, DELIVER_ORDER, RETURN_ORDER, SETTLE_REFUND
    const int PUT_SHOP, PUT_LOCATION, PUT_SKU, ADJUST_STOCK, TRANSFER_STOCK, TICK, ACTIVATE, COMMAND_KINDS
    const int EVICT, RESTORE
    const int GET_ORDER, GET_STOCK
    const int CODE_OK, CODE_INVALID_ARGUMENT, CODE_NOT_FOUND, CODE_ALREADY_EXISTS, CODE_RESOURCE_EXHAUSTED
    const int CODE_ABORTED, CODE_UNIMPLEMENTED, CODE_DATA_LOSS
    const int OUTCOME_PLACED, OUTCOME_BACKORDERED, OUTCOME_APPLIED, OUTCOME_RETRY_TOO_OLD, OUTCOME_NOT_FOR_SALE
    const int OUTCOME_PRICE_CHANGED, OUTCOME_BUYER_LIMIT, OUTCOME_INSUFFICIENT_STOCK, OUTCOME_ILLEGAL_STATE, OUTCOMES
    const int RESOURCE_SHOP, RESOURCE_LOCATION, RESOURCE_SKU, RESOURCE_ORDER

    ctypedef struct Fault:
        int code
        const char* reason
        const char* field
        int index
        const char* subfield
        const char* description
        int resource
        Span shop_id
        Span id

    ctypedef struct PlaceLine:
        Span sku_id
        uint32_t quantity
        uint8_t has_amount, has_expected_price
        int64_t amount, expected_price

    ctypedef struct CommandHead:
        Span canonical
        uint32_t content_size
        Span shop_id

    ctypedef struct PlaceOrder:
        CommandHead head
        Span order_id, buyer_id, region
        uint8_t strategy
        int8_t allow_split
        uint8_t priority_class
        uint32_t line_count
        int64_t placed_at_ms, first_sent_at_ms
        PlaceLine* lines

    ctypedef struct LineQuantity:
        uint32_t line_index, quantity
        Span location_id

    ctypedef struct OrderCommand:
        CommandHead head
        Span order_id, command_id
        int64_t amount
        uint8_t disposition
        Span location_id
        uint32_t line_count
        LineQuantity* lines

    ctypedef struct RegionCost:
        Span from_region, to_region
        uint32_t cost

    ctypedef struct PutShop:
        CommandHead head
        uint8_t* currency
        uint8_t strategy, allow_split, status, has_if_revision
        uint64_t if_revision
        uint32_t cost_count
        RegionCost* costs

    ctypedef struct PutLocation:
        CommandHead head
        Span location_id, region
        uint8_t kind, status, has_if_revision
        uint32_t priority
        uint64_t if_revision

    ctypedef struct SafetyStock:
        Span location_id
        uint32_t quantity

    ctypedef struct PutSku:
        CommandHead head
        Span sku_id
        int64_t price, buyer_window_ms, reserve_ttl_ms
        uint32_t buyer_limit_per_order, buyer_limit_per_window, backorder_limit, safety_stock
        uint8_t status, backorder_allowed, has_if_revision
        uint64_t if_revision
        uint32_t override_count
        SafetyStock* overrides

    ctypedef struct StockCommand:
        CommandHead head
        Span id, sku_id, location_id, to_location_id
        int64_t quantity, first_sent_at_ms
        uint8_t kind

    ctypedef struct GetRequest:
        Span shop_id, id

    ctypedef struct Activate:
        uint32_t level, entries_max
        int64_t window_ms
        Span canonical

    ctypedef struct Evict:
        uint64_t closed_sequence
        Span canonical

    ctypedef struct Restore:
        Span shop_id, item, canonical

    ctypedef struct LineView:
        Span sku_id
        int64_t amount
        uint32_t quantity, open, shipped, cancelled, delivered, returned, written_off

    ctypedef struct AllocationView:
        Span location_id
        uint32_t line_index, quantity, shipped, released

    ctypedef struct OrderView:
        Span order_id, shop_id, buyer_id
        uint8_t state, payment_state
        uint8_t* currency
        int64_t amount, received, refunded, refund_due, accepted_at_ms, expires_at_ms, placed_at_ms
        uint64_t sequence
        uint32_t line_count, allocation_count
        LineView* lines
        AllocationView* allocations

    ctypedef struct StockView:
        Span shop_id, sku_id, location_id
        int64_t on_hand, reserved, available, sellable, safety_stock
        int64_t received, adjusted, moved_in, moved_out, returned, shipped, written_off

    ctypedef struct Buffer:
        uint8_t* data
        size_t size, capacity
