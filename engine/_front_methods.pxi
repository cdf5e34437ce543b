# The methods that the front answers itself; all others are relayed.

cdef extern from *:
    """
    #define FRONT_ORDERS "/everopen.v1.OrderService/"
    #define FRONT_INVENTORY "/everopen.v1.InventoryService/"
    #define FRONT_HEALTH "/grpc.health.v1.Health/"
    #define FRONT_METHOD(service, name, kind, number, batch) \\
        { service name, sizeof(service name) - 1, kind, number, batch }

    typedef struct {
        const char* path;
        size_t path_size;
        int kind, number, is_batch;
    } FrontMethod;

    /* The busiest first: the table is read from its beginning. */
    static const FrontMethod front_methods[] = {
        FRONT_METHOD(FRONT_ORDERS, "PlaceOrder", 1, PLACE_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "PlaceOrders", 2, PLACE_ORDER, 1),
        FRONT_METHOD(FRONT_ORDERS, "PayOrder", 1, PAY_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "GetOrder", 1, GET_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "CancelOrder", 1, CANCEL_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "ShipOrder", 1, SHIP_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "DeliverOrder", 1, DELIVER_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "ReturnOrder", 1, RETURN_ORDER, 0),
        FRONT_METHOD(FRONT_ORDERS, "SettleRefund", 1, SETTLE_REFUND, 0),
        FRONT_METHOD(FRONT_INVENTORY, "GetStock", 1, GET_STOCK, 0),
        FRONT_METHOD(FRONT_INVENTORY, "AdjustStock", 1, ADJUST_STOCK, 0),
        FRONT_METHOD(FRONT_INVENTORY, "TransferStock", 1, TRANSFER_STOCK, 0),
        FRONT_METHOD(FRONT_INVENTORY, "PutShop", 1, PUT_SHOP, 0),
        FRONT_METHOD(FRONT_INVENTORY, "PutLocation", 1, PUT_LOCATION, 0),
        FRONT_METHOD(FRONT_INVENTORY, "PutSku", 1, PUT_SKU, 0),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutShops", 1, PUT_SHOP, 1),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutLocations", 1, PUT_LOCATION, 1),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutSkus", 1, PUT_SKU, 1),
        FRONT_METHOD(FRONT_INVENTORY, "BatchAdjustStock", 1, ADJUST_STOCK, 1),
        FRONT_METHOD(FRONT_INVENTORY, "BatchTransferStock", 1, TRANSFER_STOCK, 1),
        FRONT_METHOD(FRONT_INVENTORY, "BatchGetStock", 1, GET_STOCK, 1),
        FRONT_METHOD(FRONT_HEALTH, "Check", 3, 0, 0),
        FRONT_METHOD(FRONT_HEALTH, "Watch", 4, 0, 0),
    };
    enum { FRONT_METHODS = sizeof front_methods / sizeof front_methods[0] };
    """
    ctypedef struct FrontMethod:
        const char* path
        size_t path_size
        int kind, number, is_batch
    const FrontMethod* front_methods
    const int FRONT_METHODS


cdef const FrontMethod* method_of(const uint8_t* path, size_t size) noexcept nogil:
    cdef int i
    for i in range(FRONT_METHODS):
        if front_methods[i].path_size == size and memcmp(front_methods[i].path, path, size) == 0:
            return &front_methods[i]
    return NULL
