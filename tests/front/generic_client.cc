// Sends what standard input says, one call a line: METHOD HEX. All run at the same time; for each, in their order, a
// line with code and answer in hexadecimal is printed. Arguments: address, compression (none or gzip).

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    grpc::Status status;
    std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
};

std::string from_hex(const std::string& text) {
    std::string bytes;
    for (size_t at = 0; at + 1 < text.size(); at += 2)
        bytes.push_back(static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16)));
    return bytes;
}

std::string to_hex(grpc::ByteBuffer& buffer) {
    static const char digits[] = "0123456789abcdef";
    std::vector<grpc::Slice> slices;
    std::string text;
    if (buffer.Valid() && buffer.Dump(&slices).ok())
        for (const grpc::Slice& slice : slices)
            for (size_t at = 0; at < slice.size(); at++) {
                text.push_back(digits[slice.begin()[at] >> 4]);
                text.push_back(digits[slice.begin()[at] & 15]);
            }
    return text;
}

}  // namespace

int main(int, char** arguments) {
    grpc::GenericStub stub(grpc::CreateChannel(arguments[1], grpc::InsecureChannelCredentials()));
    grpc::CompletionQueue queue;
    std::vector<std::unique_ptr<Call>> calls;
    std::string line;
    while (std::getline(std::cin, line)) {
        const size_t blank = line.find(' ');
        const std::string bytes = from_hex(line.substr(blank + 1));
        const grpc::Slice slice(bytes);
        calls.push_back(std::make_unique<Call>());
        Call& call = *calls.back();
        if (std::string(arguments[2]) == "gzip") call.context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
        call.context.AddMetadata("x-raw-bin", std::string("\0\1\377", 3));
        call.context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
        call.reader = stub.PrepareUnaryCall(&call.context, line.substr(0, blank), grpc::ByteBuffer(&slice, 1), &queue);
        call.reader->StartCall();
        call.reader->Finish(&call.answer, &call.status, &call);
    }
    void* tag;
    bool ok;
    for (size_t over = 0; over < calls.size(); over++) queue.Next(&tag, &ok);
    for (const std::unique_ptr<Call>& call : calls)
        std::cout << call->status.error_code() << ' ' << to_hex(call->answer) << '\n';
}
