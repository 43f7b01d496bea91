/*
 * The loop of this VPN as a C program with select(): to read beside src/core/loop.ts, and to race with it.
 * It speaks --cipher xor, so that either end can be src/client.ts or src/server.ts, over TCP port 5555:
 *
 *     u16 length, big-endian | one IP packet, each byte XOR 0x42
 *
 * NOT SECURE: XOR hides nothing. One client at a time; packets of at most 2 KB. Others set the addresses:
 *
 *     cc -O2 -Wall -Wextra -o simplevpn refs/simplevpn.c
 *     ./simplevpn server 0.0.0.0 tun0          ip addr add 10.8.0.1/24 dev tun0; ip link set tun0 mtu 1400 up
 *     ./simplevpn client 192.168.1.1 tun0      ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 mtu 1400 up
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>

enum { PORT = 5555, KEY = 0x42, HEADER = 2, PACKET = 2048 };

struct buffer {
    unsigned char bytes[HEADER + PACKET];
    size_t start, end; /* what is in it */
};

/* A failed system call while starting ends the program. */
static int check(int result, const char *call) {
    if (result >= 0) return result;
    perror(call);
    exit(1);
}

static void xor_crypt(unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) bytes[i] ^= KEY;
}

static int open_tun(const char *name) {
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int tun_fd = check(open("/dev/net/tun", O_RDWR), "open /dev/net/tun");
    check(ioctl(tun_fd, TUNSETIFF, &request), "ioctl TUNSETIFF");
    return tun_fd;
}

/* As much of the waiting frame as the socket takes now. 0 when the connection is over, as below. */
static int flush(int socket_fd, struct buffer *out) {
    ssize_t count = write(socket_fd, out->bytes + out->start, out->end - out->start);
    if (count < 0) return errno == EAGAIN;
    out->start += count;
    return 1;
}

/* One packet from the TUN becomes one frame, and goes to the socket. */
static int outbound(int tun_fd, int socket_fd, struct buffer *out) {
    ssize_t length = check(read(tun_fd, out->bytes + HEADER, PACKET), "read from the TUN");
    xor_crypt(out->bytes + HEADER, length);
    out->bytes[0] = length >> 8;
    out->bytes[1] = length & 0xff;
    out->start = 0;
    out->end = HEADER + length;
    return flush(socket_fd, out);
}

/* One read from the socket: a piece of the stream, cut anywhere. Each whole frame is a packet for the TUN. */
static int inbound(int socket_fd, int tun_fd, struct buffer *in) {
    ssize_t count = read(socket_fd, in->bytes + in->end, sizeof in->bytes - in->end);
    if (count <= 0) return count < 0 && errno == EAGAIN;
    in->end += count;
    for (in->start = 0; in->end - in->start >= HEADER;) {
        unsigned char *frame = in->bytes + in->start;
        size_t length = frame[0] << 8 | frame[1];
        if (length > PACKET) return 0; /* not our protocol, or a larger MTU at the other end */
        if (in->end - in->start < HEADER + length) break;
        xor_crypt(frame + HEADER, length);
        if (write(tun_fd, frame + HEADER, length) < 0) perror("dropped a packet: write to the TUN");
        in->start += HEADER + length;
    }
    in->end -= in->start;
    memmove(in->bytes, in->bytes + in->start, in->end); /* of a frame whose rest comes with the next read */
    return 1;
}

/* Until the connection is over. A frame that the full socket has not taken waits, and with it the TUN. */
static void loop(int tun_fd, int socket_fd) {
    struct buffer in = { .end = 0 }, out = { .end = 0 };
    int max_fd = tun_fd > socket_fd ? tun_fd : socket_fd;
    int open = 1;
    while (open) {
        fd_set readable, writable;
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(socket_fd, &readable);
        if (out.start < out.end) FD_SET(socket_fd, &writable);
        else FD_SET(tun_fd, &readable);
        check(select(max_fd + 1, &readable, &writable, NULL, NULL), "select");
        if (FD_ISSET(tun_fd, &readable)) open = outbound(tun_fd, socket_fd, &out);
        if (open && FD_ISSET(socket_fd, &writable)) open = flush(socket_fd, &out);
        if (open && FD_ISSET(socket_fd, &readable)) open = inbound(socket_fd, tun_fd, &in);
    }
    fprintf(stderr, "the connection is over\n");
}

int main(int argc, char **argv) {
    int server = argc == 4 && strcmp(argv[1], "server") == 0;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    int client = argc == 4 && strcmp(argv[1], "client") == 0;
    if ((!server && !client) || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) {
        fprintf(stderr, "usage: simplevpn server|client IPV4-ADDRESS TUN\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* a write to a closed connection is an errno, not the end */
    int one = 1, tun_fd = open_tun(argv[3]);
    int first_fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(setsockopt(first_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "setsockopt SO_REUSEADDR");
    if (server) {
        check(bind(first_fd, (struct sockaddr *)&address, sizeof address), "bind");
        check(listen(first_fd, 1), "listen");
    } else {
        check(connect(first_fd, (struct sockaddr *)&address, sizeof address), "connect");
    }
    do {
        fprintf(stderr, server ? "listening\n" : "connected\n");
        int socket_fd = server ? check(accept(first_fd, NULL, NULL), "accept") : first_fd;
        check(setsockopt(socket_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "setsockopt TCP_NODELAY");
        /* or two full sockets would wait for each other */
        check(fcntl(socket_fd, F_SETFL, O_NONBLOCK), "fcntl O_NONBLOCK");
        loop(tun_fd, socket_fd);
        close(socket_fd);
    } while (server);
    return 1;
}
