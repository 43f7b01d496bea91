/** For measureSocks(): an HTTP server whose page never ends, and that takes uploads without end. */
import { createServer } from "node:http";
import { program } from "../../host/program.ts";

const PORT = 8000;
const piece = Buffer.alloc(256 * 1024);

program(() => {
  const server = createServer((request, response) => {
    if (request.method === "PUT") return void request.resume();
    const more = () => {
      while (response.write(piece)); // until it takes no more for now
    };
    response.on("drain", more);
    more();
  });
  server.listen(PORT, () => console.log("ready"));
});
