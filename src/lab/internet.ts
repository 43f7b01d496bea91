/**
 * What the lab's internet host serves, for `make walk FOLLOW=…`: DNS on UDP port 53 (every name is 8.8.8.8),
 * HTTP on TCP port 80.
 */
import { createSocket } from "node:dgram";
import { createServer } from "node:http";
import { program } from "../host/program.ts";

/**
 * An answer to one DNS query (RFC 1035, section 4.1): its header and question, then one A record for the name
 * asked for.
 */
function answer(query: Buffer): Buffer {
  const nameEnd = query.indexOf(0, 12);
  if (nameEnd < 0 || query.length < nameEnd + 5) return query;
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(0x8180, 2); // a response, no error
  header.writeUInt32BE(0x00010001, 4); // one question, one answer
  header.writeUInt32BE(0, 8);
  // the name at byte 12, A, IN, 3600 s, 8.8.8.8
  const record = Buffer.from("c00c0001000100000e10000408080808", "hex");
  return Buffer.concat([header, query.subarray(12, nameEnd + 5), record]);
}

program(() => {
  const dns = createSocket("udp4");
  dns.on(
    "message",
    (query, { port, address }) => query.length > 12 && dns.send(answer(query), port, address),
  );
  dns.bind(53, "8.8.8.8", () => {
    // its own address: else the answer leaves from eth0's, and no NAT knows it
    createServer((_, response) => response.end("hello from the internet\n")).listen(80, () =>
      console.log("ready"),
    );
  });
});
