# The methods that the front answers itself; all others are relayed.

cdef extern from *:
    """
    #define FRONT_ORDERS "/everopen.v1.OrderService/"
    #define FRONT_INVENTORY "/everopen.v1.InventoryService/"
    #define FRONT_HEALTH "/grpc.health.v1.Health/"
    #define FRONT_METHOD(service, name, kind, number, batch, scope) \\
        { service name, sizeof(service name) - 1, kind, number, batch, scope }

    /* Groups of methods, as bits; docs/security.md. A caller has some of them. */
    enum {
        SCOPE_ORDERS_WRITE = 1, SCOPE_ORDERS_READ = 2, SCOPE_CATALOGUE_WRITE = 4, SCOPE_CATALOGUE_READ = 8,
        SCOPE_CLUSTER_READ = 16, SCOPE_CLUSTER_ADMIN = 32,
        SCOPE_ANYONE = 64,               /* also who is not known */
    };

    typedef struct {
        const char* path;
        size_t path_size;
        int kind, number, is_batch, scope;
    } FrontMethod;

    /* The busiest first: the table is read from its beginning. */
    static const FrontMethod front_methods[] = {
        FRONT_METHOD(FRONT_ORDERS, "PlaceOrder", 1, PLACE_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "PlaceOrders", 2, PLACE_ORDER, 1, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "PayOrder", 1, PAY_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "GetOrder", 1, GET_ORDER, 0, SCOPE_ORDERS_READ),
        FRONT_METHOD(FRONT_ORDERS, "CancelOrder", 1, CANCEL_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "ShipOrder", 1, SHIP_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "DeliverOrder", 1, DELIVER_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "ReturnOrder", 1, RETURN_ORDER, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_ORDERS, "SettleRefund", 1, SETTLE_REFUND, 0, SCOPE_ORDERS_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "GetStock", 1, GET_STOCK, 0, SCOPE_CATALOGUE_READ),
        FRONT_METHOD(FRONT_INVENTORY, "AdjustStock", 1, ADJUST_STOCK, 0, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "TransferStock", 1, TRANSFER_STOCK, 0, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "PutShop", 1, PUT_SHOP, 0, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "PutLocation", 1, PUT_LOCATION, 0, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "PutSku", 1, PUT_SKU, 0, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutShops", 1, PUT_SHOP, 1, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutLocations", 1, PUT_LOCATION, 1, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchPutSkus", 1, PUT_SKU, 1, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchAdjustStock", 1, ADJUST_STOCK, 1, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchTransferStock", 1, TRANSFER_STOCK, 1, SCOPE_CATALOGUE_WRITE),
        FRONT_METHOD(FRONT_INVENTORY, "BatchGetStock", 1, GET_STOCK, 1, SCOPE_CATALOGUE_READ),
        FRONT_METHOD(FRONT_HEALTH, "Check", 3, 0, 0, SCOPE_ANYONE),
        FRONT_METHOD(FRONT_HEALTH, "Watch", 4, 0, 0, SCOPE_ANYONE),
    };
    enum { FRONT_METHODS = sizeof front_methods / sizeof front_methods[0] };

    /* What is relayed. A path that ends with a slash stands for all that begins so; the last for what is not here. */
    typedef struct { const char* path; int scope; } FrontRelayed;
    static const FrontRelayed front_relayed[] = {
        { "/everopen.v1.ClusterService/GetPartitionMap", SCOPE_CLUSTER_READ },
        { "/everopen.v1.ClusterService/WatchPartitionMap", SCOPE_CLUSTER_READ },
        { "/everopen.v1.ClusterService/GetWorkers", SCOPE_CLUSTER_READ },
        { "/grpc.reflection.v1.ServerReflection/", SCOPE_CLUSTER_READ },
        { "/grpc.reflection.v1alpha.ServerReflection/", SCOPE_CLUSTER_READ },
        { "/grpc.channelz.v1.Channelz/", SCOPE_CLUSTER_READ },
        { "/", SCOPE_CLUSTER_ADMIN },
    };
    enum { FRONT_RELAYED = sizeof front_relayed / sizeof front_relayed[0] };
    """
    ctypedef struct FrontMethod:
        const char* path
        size_t path_size
        int kind, number, is_batch, scope
    ctypedef struct FrontRelayed:
        const char* path
        int scope
    const FrontMethod* front_methods
    const FrontRelayed* front_relayed
    const int FRONT_METHODS, FRONT_RELAYED
    const int SCOPE_ORDERS_WRITE, SCOPE_ORDERS_READ, SCOPE_CATALOGUE_WRITE, SCOPE_CATALOGUE_READ
    const int SCOPE_CLUSTER_READ, SCOPE_CLUSTER_ADMIN, SCOPE_ANYONE

SCOPE_NAMES = {
    "orders:write": SCOPE_ORDERS_WRITE, "orders:read": SCOPE_ORDERS_READ, "catalogue:write": SCOPE_CATALOGUE_WRITE,
    "catalogue:read": SCOPE_CATALOGUE_READ, "cluster:read": SCOPE_CLUSTER_READ, "cluster:admin": SCOPE_CLUSTER_ADMIN,
}


cdef const FrontMethod* method_of(const uint8_t* path, size_t size) noexcept nogil:
    cdef int i
    for i in range(FRONT_METHODS):
        if front_methods[i].path_size == size and memcmp(front_methods[i].path, path, size) == 0:
            return &front_methods[i]
    return NULL


# The row of a method that is relayed.
cdef int relayed_method(const uint8_t* path, size_t size) noexcept nogil:
    cdef size_t known
    cdef int i
    for i in range(FRONT_RELAYED - 1):
        known = strlen(front_relayed[i].path)
        if size >= known and memcmp(front_relayed[i].path, path, known) == 0 \
                and (size == known or front_relayed[i].path[known - 1] == c"/"):
            return i
    return FRONT_RELAYED - 1


def method_scopes():
    """The scope that each method of the table asks for, by its path; empty for none. See docs/security.md."""
    names = {bit: name for name, bit in SCOPE_NAMES.items()} | {SCOPE_ANYONE: ""}
    found = {front_methods[i].path.decode(): names[front_methods[i].scope] for i in range(FRONT_METHODS)}
    return found | {front_relayed[i].path.decode(): names[front_relayed[i].scope] for i in range(FRONT_RELAYED)}
