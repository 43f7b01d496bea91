/**
 * OpenSSL's QUIC and TLS 1.3, through the FFI: the node binary exports them, as it exports AES (aes.ts). Who
 * is who follows from our secret alone, by a pre-shared key of TLS 1.3 (RFC 8446, section 4.2.11). There are
 * no certificates. Each function has a page in OpenSSL's manual, section 3ssl; begin with openssl-quic(7).
 */
import koffi from "koffi";
import { hkdfSync } from "node:crypto";
import { Memory, thisProcess } from "../base/libc.ts";

const CALLS = {
  OSSL_QUIC_client_method: "ptr ()",
  OSSL_QUIC_server_method: "ptr ()",
  SSL_CTX_new: "ptr (ptr method)",
  SSL_CTX_set_domain_flags: "int (ptr ctx, uint64_t flags)",
  SSL_CTX_set_ciphersuites: "int (ptr ctx, const char *names)",
  SSL_CTX_set_verify: "void (ptr ctx, int mode, ptr callback)",
  SSL_CTX_set_alpn_select_cb: "void (ptr ctx, void *callback, ptr argument)",
  SSL_CTX_set_psk_use_session_callback: "void (ptr ctx, void *callback)",
  SSL_CTX_set_psk_find_session_callback: "void (ptr ctx, void *callback)",
  SSL_select_next_proto:
    "int (ptr out, ptr outLength, void *ours, uint32_t length, ptr theirs, uint32_t theirLength)",
  SSL_CIPHER_find: "ptr (ptr ssl, void *id)",
  SSL_SESSION_new: "ptr ()",
  SSL_SESSION_set1_master_key: "int (ptr session, void *key, size_t length)",
  SSL_SESSION_set_cipher: "int (ptr session, ptr cipher)",
  SSL_SESSION_set_protocol_version: "int (ptr session, int version)",
  SSL_new: "ptr (ptr ctx)",
  SSL_new_listener: "ptr (ptr ctx, uint64_t flags)",
  SSL_listen: "int (ptr ssl)",
  SSL_accept_connection: "ptr (ptr ssl, uint64_t flags)",
  SSL_free: "void (ptr ssl)",
  SSL_set_bio: "void (ptr ssl, ptr in, ptr out)",
  SSL_set1_initial_peer_addr: "int (ptr ssl, ptr address)",
  SSL_set_alpn_protos: "int (ptr ssl, void *protocols, uint32_t length)",
  SSL_set_connect_state: "void (ptr ssl)",
  SSL_set_value_uint: "int (ptr ssl, uint32_t class, uint32_t id, uint64_t value)",
  SSL_get_value_uint: "int (ptr ssl, uint32_t class, uint32_t id, ptr value)",
  SSL_ctrl: "long (ptr ssl, int command, long number, ptr pointer)",
  SSL_inject_net_dgram: "int (ptr ssl, ptr data, size_t length, ptr from, ptr to)",
  SSL_handle_events: "int (ptr ssl)",
  SSL_get_event_timeout: "int (ptr ssl, ptr time, ptr never)",
  SSL_do_handshake: "int (ptr ssl)",
  SSL_session_reused: "int (ptr ssl)",
  SSL_read_ex: "int (ptr ssl, ptr data, size_t length, ptr count)",
  SSL_write_ex: "int (ptr ssl, ptr data, size_t length, ptr count)",
  SSL_get_error: "int (ptr ssl, int result)",
  SSL_get_conn_close_info: "int (ptr ssl, ptr info, size_t size)",
  SSL_shutdown_ex: "int (ptr ssl, uint64_t flags, ptr arguments, size_t size)",
  BIO_new_bio_dgram_pair: "int (ptr near, size_t nearSize, ptr far, size_t farSize)",
  BIO_new_dgram: "ptr (int fd, int close)",
  BIO_ctrl: "long (ptr bio, int command, long number, ptr pointer)",
  BIO_recvmmsg: "int (ptr bio, ptr messages, size_t size, size_t count, uint64_t flags, ptr got)",
  BIO_sendmmsg: "int (ptr bio, ptr messages, size_t size, size_t count, uint64_t flags, ptr sent)",
  BIO_free: "int (ptr bio)",
  ERR_get_error: "unsigned long ()",
  ERR_clear_error: "void ()",
};
type Calls = Record<keyof typeof CALLS, (...args: unknown[]) => number>;
let calls: Calls | undefined;

/** Declared when they are first needed: OpenSSL before 3.5 has not all of them, and then koffi throws. */
export function openssl(): Calls {
  if (calls) return calls;
  koffi.alias("ptr", "uintptr_t"); // a number: for a void *, koffi looks at each call what it got
  const all = Object.entries(CALLS).map(([name, types]) => [name, types.replace("(", `${name}(`)] as const);
  calls = Object.fromEntries(all.map(([name, type]) => [name, thisProcess.func(type)])) as unknown as Calls;
  return calls;
}

/** OpenSSL answers 1 for success. Anything else here is our fault or the machine's, never a peer's. */
export function must(result: number, action: string): void {
  if (result !== 1) throw new Error(`Cannot ${action}: OpenSSL answered ${result}`);
}

const ALPN = Buffer.from("\x0csimple-vpn/1", "latin1"); // RFC 7301: its length, and the protocol's name
const CIPHER = "TLS_AES_256_GCM_SHA384";
const CIPHER_ID = Buffer.from([0x13, 0x02]); // RFC 8446, appendix B.4
const [TLS_1_3, VERIFY_PEER, SINGLE_THREAD] = [0x0304, 1, 1]; // openssl/ssl.h, openssl/tls1.h
const [NEGOTIATED, ACCEPT, FATAL_ALERT] = [1, 0, 2]; // SSL_select_next_proto(3ssl), and its caller's answers

/** How our ends speak TLS: with our secrets, and in no other way. A client has one, a server takes any. */
export class TlsContext {
  readonly address: number; // an SSL_CTX's
  private readonly callbacks: unknown[] = []; // kept: C only knows their addresses
  private readonly keys: { name: Memory; key: Buffer }[];

  constructor(role: "client" | "server", secrets: Buffer[]) {
    const ssl = openssl();
    this.keys = secrets.map((secret) => {
      const derive = (use: string) =>
        Buffer.from(hkdfSync("sha256", secret, "", `simple-vpn quic ${use}`, 32));
      const name = new Memory(32); // what the client says to tell which key it has; C keeps its address
      derive("name").copy(name.bytes);
      return { name, key: derive("key") };
    });
    this.address = ssl.SSL_CTX_new(ssl[`OSSL_QUIC_${role}_method`]());
    if (this.address === 0) throw new Error("Cannot make a TLS context: out of memory");
    must(ssl.SSL_CTX_set_domain_flags(this.address, SINGLE_THREAD), "stay in one thread");
    must(ssl.SSL_CTX_set_ciphersuites(this.address, CIPHER), "choose the cipher");
    // SSL_CTX_set_psk_use_session_callback(3ssl), SSL_CTX_set_alpn_select_cb(3ssl)
    const use = this.callback(["ptr", "ptr", "ptr", "ptr", "ptr"], 0, (tls, _md, name, length, out) => {
      const { address, bytes } = this.keys[0]!.name;
      put(name, address);
      put(length, bytes.length);
      return give(tls, this.keys[0]!.key, out);
    });
    const find = this.callback(["ptr", "ptr", "size_t", "ptr"], 0, (tls, name, length, out) => {
      const named = Buffer.from(koffi.view(name, length));
      return give(tls, this.keys.find(({ name }) => name.bytes.equals(named))?.key, out);
    });
    const select = this.callback(
      ["ptr", "ptr", "ptr", "ptr", "uint32_t", "ptr"],
      FATAL_ALERT,
      (_tls, out, outLength, theirs, length) =>
        ssl.SSL_select_next_proto(out, outLength, ALPN, ALPN.length, theirs, length) === NEGOTIATED
          ? ACCEPT
          : FATAL_ALERT,
    );
    if (role === "client") {
      ssl.SSL_CTX_set_verify(this.address, VERIFY_PEER, 0); // a certificate is refused: we trust none
      ssl.SSL_CTX_set_psk_use_session_callback(this.address, use);
    } else {
      ssl.SSL_CTX_set_psk_find_session_callback(this.address, find);
      ssl.SSL_CTX_set_alpn_select_cb(this.address, select, 0);
    }
  }

  /** A client's connection. */
  connection(): number {
    const connection = openssl().SSL_new(this.address);
    if (connection === 0) throw new Error("Cannot make a QUIC connection: out of memory");
    // unlike all the others, it answers 0 for success
    must(openssl().SSL_set_alpn_protos(connection, ALPN, ALPN.length) + 1, "name the protocol");
    return connection;
  }

  /** Makes `run` callable for C. koffi does not say what C gets after an exception: here it is `failed`. */
  private callback(types: string[], failed: number, run: (...args: number[]) => number): unknown {
    const guarded = (...args: number[]) => {
      try {
        return run(...args);
      } catch {
        return failed;
      }
    };
    this.callbacks.push(koffi.register(guarded, koffi.pointer(koffi.proto("int", types))));
    return this.callbacks.at(-1);
  }
}

const put = (pointer: number, value: number) => koffi.encode(pointer, "uintptr_t", value);

/** Gives OpenSSL a key, as it takes it: as a session that there was before. Without one: it has none. */
function give(tls: number, key: Buffer | undefined, out: number): number {
  const ssl = openssl();
  put(out, 0);
  if (!key) return 1;
  const session = ssl.SSL_SESSION_new();
  must(ssl.SSL_SESSION_set1_master_key(session, key, key.length), "set the key");
  must(ssl.SSL_SESSION_set_cipher(session, ssl.SSL_CIPHER_find(tls, CIPHER_ID)), "set the cipher");
  must(ssl.SSL_SESSION_set_protocol_version(session, TLS_1_3), "set the version");
  put(out, session);
  return 1;
}
