// As generic_client.cc, over @grpc/grpc-js. Compression 2 is gzip there.

const grpc = require("@grpc/grpc-js");

const [address, compression] = process.argv.slice(2);
const options = { "grpc.default_compression_algorithm": compression === "gzip" ? 2 : 0 };
const client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
const lines = require("fs").readFileSync(0, "utf8").split("\n").filter(Boolean);
const bytes = (value) => value;

function ask(line) {
  const [method, hex] = line.split(" ");
  const metadata = new grpc.Metadata();
  metadata.set("x-raw-bin", Buffer.from([0, 1, 255]));
  const request = Buffer.from(hex || "", "hex");
  const within = { deadline: Date.now() + 60_000 };
  return new Promise((done) => {
    client.makeUnaryRequest(method, bytes, bytes, request, metadata, within, (error, answer) =>
      done(error ? `${error.code} ` : `0 ${answer.toString("hex")}`));
  });
}

Promise.all(lines.map(ask)).then((answers) => {
  console.log(answers.join("\n"));
  client.close();
});
