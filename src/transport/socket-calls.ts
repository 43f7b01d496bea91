/**
 * The calls and constants of sockets: like those in libc.ts, each returns a result >= 0, or a negative errno.
 */
import koffi from "koffi";
import { libc, type Memory, O_CLOEXEC, O_NONBLOCK, thisProcess } from "../base/libc.ts";

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
export const getsockname = libc(
  "int getsockname(int fd, _Out_ void *address, _Inout_ uint32_t *length)", // getsockname(2)
);
// if_nametoindex(3): 0 if there is none such
export const if_nametoindex = libc("uint32_t if_nametoindex(const char *name)");
// if_indextoname(3): its name to 16 bytes; 0 if there is none such
export const if_indextoname = thisProcess.func("size_t if_indextoname(uint32_t index, _Out_ void *name)");

// recvfrom(2)
export const recvfrom = libc(
  "int64_t recvfrom(int fd, void *to, size_t count, int flags, _Out_ void *from, _Inout_ uint32_t *length)",
);

// sendmsg(2), recvmsg(2): written out as read() and write() are, for they are of the data path
const cSendmsg = thisProcess.func("int64_t sendmsg(int fd, size_t message, int flags)");
const cRecvmsg = thisProcess.func("int64_t recvmsg(int fd, size_t message, int flags)");
/** @param message the address of a struct msghdr */
export function sendmsg(fd: number, message: number): number {
  const result: number = cSendmsg(fd, message, 0);
  return result < 0 ? -koffi.errno() : result;
}
export function recvmsg(fd: number, message: number): number {
  const result: number = cRecvmsg(fd, message, 0);
  return result < 0 ? -koffi.errno() : result;
}
// sendto(2): of `count` bytes from that address on, as a number
export const sendto = libc(
  "int64_t sendto(int fd, size_t from, size_t count, int flags, void *to, uint32_t length)",
);
const cRecvfrom = thisProcess.func(
  "int64_t recvfrom(int fd, size_t to, size_t count, int flags, size_t name, size_t length)",
);
/** recvfrom(2) to all of `memory`. `name`, `length`: the addresses of a sockaddr and of its length, u32. */
export function recvfromTo(fd: number, { address, bytes }: Memory, name: number, length: number): number {
  const result: number = cRecvfrom(fd, address, bytes.length, 0, name, length);
  return result < 0 ? -koffi.errno() : result;
}

// sys/socket.h, netinet/tcp.h
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = O_NONBLOCK;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SHUT_WR = 1;
export const SHUT_RDWR = 2;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_ERROR = 4;
export const SO_SNDBUF = 7; // bytes
export const SO_RCVBUF = 8; // bytes
export const SO_KEEPALIVE = 9;
export const SO_LINGER = 13;
export const SO_BINDTODEVICE = 25; // an interface's name, with its NUL
export const SO_ATTACH_FILTER = 26; // a program in BPF (linux/filter.h)
export const SO_MARK = 36; // of each packet that is sent: `fwmark` of ip-rule(8)
export const SO_RXQ_OVFL = 40; // with each datagram, how many this socket has dropped so far
export const SO_SNDBUFFORCE = 32; // bytes; over net.core.wmem_max, with CAP_NET_ADMIN (socket(7))
export const SO_RCVBUFFORCE = 33;
export const IPPROTO_IP = 0;
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_IPV6 = 41;
export const IPPROTO_ICMPV6 = 58;
export const IPPROTO_RAW = 255;
export const IPV6_V6ONLY = 26; // linux/in6.h
export const TCP_NODELAY = 1;
export const TCP_KEEPIDLE = 4; // s
export const TCP_KEEPINTVL = 5; // s
export const TCP_KEEPCNT = 6;
export const TCP_INFO = 11;
export const TCPI_RTT = 68; // struct tcp_info (linux/tcp.h): tcpi_rtt, u32, µs
export const TCP_USER_TIMEOUT = 18; // ms
export const TCP_NOTSENT_LOWAT = 25; // bytes
// linux/in.h (ip(7)), linux/in6.h (ipv6(7))
export const IP_PKTINFO = 8; // with each datagram, the address that it was sent to
export const IP_MTU_DISCOVER = 10;
export const IP_RECVERR = 11;
export const IP_MTU = 14; // bytes, of the way to where the socket is connected
export const IPV6_MTU_DISCOVER = 23;
export const IPV6_MTU = 24;
export const IPV6_RECVERR = 25;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
export const PMTUDISC_DO = 2; // never a fragment: EMSGSIZE instead
// linux/udp.h (udp(7))
export const UDP_SEGMENT = 103; // one sendmsg(), many datagrams
export const UDP_GRO = 104; // one recvmsg(), many datagrams
// linux/if_packet.h, linux/if_ether.h (packet(7))
export const AF_PACKET = 17;
export const SOL_PACKET = 263;
export const PACKET_STATISTICS = 6;
export const PACKET_VNET_HDR = 15; // struct virtio_net_hdr before each packet
export const PACKET_IGNORE_OUTGOING = 23;
export const [ETH_P_ALL, ETH_P_IP, ETH_P_IPV6] = [3, 0x0800, 0x86dd];
