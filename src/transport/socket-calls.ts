/**
 * The calls and constants of sockets: like those in libc.ts, each returns a result >= 0, or a negative errno.
 */
import { libc, O_CLOEXEC, O_NONBLOCK } from "../base/libc.ts";

export const socket = libc("int socket(int domain, int type, int protocol)"); // socket(2)
export const bind = libc("int bind(int fd, void *address, uint32_t length)"); // bind(2)
export const listen = libc("int listen(int fd, int backlog)"); // listen(2)
// accept(2)
export const accept4 = libc("int accept4(int fd, _Out_ void *address, _Inout_ uint32_t *length, int flags)");
export const connect = libc("int connect(int fd, void *address, uint32_t length)"); // connect(2)
export const shutdown = libc("int shutdown(int fd, int how)"); // shutdown(2)
// setsockopt(2)
export const setsockopt = libc("int setsockopt(int fd, int level, int name, void *value, uint32_t length)");
export const getsockopt = libc(
  "int getsockopt(int fd, int level, int name, void *value, _Inout_ uint32_t *length)",
);
// if_nametoindex(3): 0 if there is none such
export const if_nametoindex = libc("uint32_t if_nametoindex(const char *name)");

// sys/socket.h, netinet/tcp.h
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_NONBLOCK = O_NONBLOCK;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SHUT_RDWR = 2;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_ERROR = 4;
export const SO_SNDBUF = 7; // bytes
export const SO_KEEPALIVE = 9;
export const IPPROTO_TCP = 6;
export const IPPROTO_IPV6 = 41;
export const IPV6_V6ONLY = 26; // linux/in6.h
export const TCP_NODELAY = 1;
export const TCP_KEEPIDLE = 4; // s
export const TCP_KEEPINTVL = 5; // s
export const TCP_KEEPCNT = 6;
export const TCP_INFO = 11;
export const TCPI_RTT = 68; // struct tcp_info (linux/tcp.h): tcpi_rtt, u32, µs
export const TCP_USER_TIMEOUT = 18; // ms
export const TCP_NOTSENT_LOWAT = 25; // bytes
