// What gRPC in C++ costs: a unary echo on its asynchronous API, one completion queue, one thread. It echoes bytes, so
// no message is parsed. It says its address and runs until it is ended.

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/async_unary_call.h>

#include <iostream>
#include <memory>

namespace {

// As generated code would declare it, but for bytes.
class Echo final : public grpc::Service {
 public:
  Echo() {
    AddMethod(new grpc::internal::RpcServiceMethod("/everopen.bench.Echo/Echo",
                                                   grpc::internal::RpcMethod::NORMAL_RPC, nullptr));
    MarkMethodAsync(0);
  }

  void Request(grpc::ServerContext* context, grpc::ByteBuffer* request,
               grpc::ServerAsyncResponseWriter<grpc::ByteBuffer>* answer, grpc::ServerCompletionQueue* queue,
               void* tag) {
    RequestAsyncUnary(0, context, request, answer, queue, queue, tag);
  }
};

// Waits for one request, answers it, and is replaced by a new one.
struct Call {
  Call(Echo* echo, grpc::ServerCompletionQueue* queue) : answer(&context) {
    echo->Request(&context, &request, &answer, queue, this);
  }

  grpc::ServerContext context;
  grpc::ByteBuffer request;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> answer;
  bool is_answered = false;
};

constexpr int kCallsWaiting = 512;

}  // namespace

int main() {
  Echo echo;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&echo);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  for (int i = 0; i < kCallsWaiting; i++) new Call(&echo, queue.get());
  std::cout << "echo: serving on 127.0.0.1:" << port << std::endl;
  void* tag = nullptr;
  bool is_good = false;
  while (queue->Next(&tag, &is_good)) {
    Call* call = static_cast<Call*>(tag);
    if (is_good && !call->is_answered) {
      call->is_answered = true;
      new Call(&echo, queue.get());
      call->answer.Finish(call->request, grpc::Status::OK, call);
    } else {
      delete call;
    }
  }
}
