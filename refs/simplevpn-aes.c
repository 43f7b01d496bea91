/*
 * The design of src/core/ in C. `make bench` (contender c-aes) shows by it what the language costs.
 *
 * A YARDSTICK, NOT A VPN. The key is fixed and stands below. Both ends seal with it, and both count their
 * nonces from 0. There is no handshake, no fresh key, no trace, no second client, and hardly a check of what
 * the other end sends. Unlike simplevpn.c:
 *
 *     offload    the TUN gives and takes up to 64 KB of TCP at once. 10 bytes in front say how to cut it
 *     batches    all packets that wait in the TUN share a frame, its seal, and a write()
 *     AES        each frame is sealed by OpenSSL's AES-256-GCM, after the XOR
 *
 * Its frames are the data frames of src/core/frame.ts:
 *
 *     u8 2 | u24 length of the rest | records, sealed | tag of 16 bytes
 *     record:  u32 length of the next two | 10 bytes of offload | IP packet | 0 to 3 bytes, not counted
 *
 *     cc -O3 -Wall -Wextra -o simplevpn-aes refs/simplevpn-aes.c -lcrypto
 *     ./simplevpn-aes server 0.0.0.0 tun0      ip addr add 10.8.0.1/24 dev tun0; ip link set tun0 mtu 1400 up
 *     ./simplevpn-aes client 192.168.1.1 tun0  ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 mtu 1400 up
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>

enum { PORT = 5555, KEY = 0x42, HEADER = 4, TAG = 16, RECORD = 4, PACKET = 10 + 65535, BATCH = 64 * 1024 };
enum { FRAME = HEADER + BATCH + RECORD + PACKET + 3 + TAG }; /* at most: the last packet may go over BATCH */
static const unsigned char AES_KEY[32] = "everybody can read this key here";

struct buffer {
    unsigned char bytes[2 * FRAME];
    size_t start, end; /* what is in it */
};

/* One direction: as Cipher of src/core/aes.ts. */
struct cipher {
    EVP_CIPHER_CTX *context;
    uint64_t counter;
};

/* A failed system call while starting ends the program. */
static int check(int result, const char *call) {
    if (result >= 0) return result;
    perror(call);
    exit(1);
}

/* OpenSSL says 1 for success. */
static void must(int result, const char *call) {
    if (result == 1) return;
    fprintf(stderr, "%s failed\n", call);
    exit(1);
}

static void xor_crypt(unsigned char *to, const unsigned char *from, size_t length) {
    for (size_t i = 0; i < length; i++) to[i] = from[i] ^ KEY;
}

static int open_tun(const char *name) {
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR };
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int tun_fd = check(open("/dev/net/tun", O_RDWR | O_NONBLOCK), "open /dev/net/tun");
    check(ioctl(tun_fd, TUNSETIFF, &request), "ioctl TUNSETIFF");
    check(ioctl(tun_fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6), "ioctl TUNSETOFFLOAD");
    return tun_fd;
}

static struct cipher new_cipher(int encrypt) {
    struct cipher cipher = { .context = EVP_CIPHER_CTX_new() };
    must(EVP_CipherInit_ex(cipher.context, EVP_aes_256_gcm(), NULL, AES_KEY, NULL, encrypt),
         "EVP_CipherInit_ex");
    return cipher;
}

/* The frame's nonce and header, then its text, in place. */
static void transform(struct cipher *cipher, unsigned char *frame, size_t length) {
    unsigned char nonce[12] = { 0 };
    uint64_t counter = htobe64(cipher->counter++);
    int ignored; /* OpenSSL tells a length that we know */
    memcpy(nonce + 4, &counter, 8);
    must(EVP_CipherInit_ex(cipher->context, NULL, NULL, NULL, nonce, -1), "EVP_CipherInit_ex");
    must(EVP_CipherUpdate(cipher->context, NULL, &ignored, frame, HEADER), "EVP_CipherUpdate");
    must(EVP_CipherUpdate(cipher->context, frame + HEADER, &ignored, frame + HEADER, length),
         "EVP_CipherUpdate");
}

static void seal(struct cipher *sealer, unsigned char *frame, size_t length) {
    int ignored;
    unsigned char *tag = frame + HEADER + length;
    transform(sealer, frame, length);
    must(EVP_CipherFinal_ex(sealer->context, tag, &ignored), "EVP_CipherFinal_ex");
    must(EVP_CIPHER_CTX_ctrl(sealer->context, EVP_CTRL_AEAD_GET_TAG, TAG, tag), "EVP_CIPHER_CTX_ctrl");
}

/* 1 if the tag is good. */
static int open_frame(struct cipher *opener, unsigned char *frame, size_t length) {
    int ignored;
    unsigned char *tag = frame + HEADER + length;
    transform(opener, frame, length);
    must(EVP_CIPHER_CTX_ctrl(opener->context, EVP_CTRL_AEAD_SET_TAG, TAG, tag), "EVP_CIPHER_CTX_ctrl");
    return EVP_CipherFinal_ex(opener->context, tag, &ignored) == 1;
}

/* As much of the waiting frame as the socket takes now. 0 when the connection is over, as below. */
static int flush(int socket_fd, struct buffer *out) {
    ssize_t count = write(socket_fd, out->bytes + out->start, out->end - out->start);
    if (count < 0) return errno == EAGAIN;
    out->start += count;
    return 1;
}

/* All packets that wait in the TUN, or 64 KB of them, become one frame, and it goes to the socket. */
static int outbound(int tun_fd, int socket_fd, struct buffer *out, struct cipher *sealer) {
    static unsigned char packet[PACKET];
    unsigned char *body = out->bytes + HEADER;
    size_t length = 0; /* of the body */
    while (length < BATCH) {
        ssize_t count = read(tun_fd, packet, PACKET);
        if (count < 0 && errno == EAGAIN) break;
        uint32_t record = htobe32(check(count, "read from the TUN"));
        xor_crypt(body + length, (unsigned char *)&record, RECORD);
        xor_crypt(body + length + RECORD, packet, count);
        length = (length + RECORD + count + 3) & ~3;
    }
    if (length == 0) return 1;
    uint32_t header = htobe32(2 << 24 | (length + TAG));
    memcpy(out->bytes, &header, HEADER);
    seal(sealer, out->bytes, length);
    out->start = 0;
    out->end = HEADER + length + TAG;
    return flush(socket_fd, out);
}

/* One read from the socket: a piece of the stream, cut anywhere. Each whole frame's packets go to the TUN. */
static int inbound(int socket_fd, int tun_fd, struct buffer *in, struct cipher *opener) {
    ssize_t count = read(socket_fd, in->bytes + in->end, sizeof in->bytes - in->end);
    if (count <= 0) return count < 0 && errno == EAGAIN;
    in->end += count;
    for (in->start = 0; in->end - in->start >= HEADER;) {
        uint32_t word, length;
        unsigned char *frame = in->bytes + in->start, *body = frame + HEADER;
        memcpy(&word, frame, HEADER);
        length = (be32toh(word) & 0xffffff) - TAG;
        if (length > FRAME) return 0; /* not our protocol */
        if (in->end - in->start < HEADER + length + TAG) break;
        if (!open_frame(opener, frame, length)) return 0;
        xor_crypt(body, body, length);
        for (uint32_t at = 0, size; at < length; at = (at + RECORD + size + 3) & ~3) {
            memcpy(&word, body + at, RECORD);
            size = be32toh(word);
            if (write(tun_fd, body + at + RECORD, size) < 0) perror("dropped a packet: write to the TUN");
        }
        in->start += HEADER + length + TAG;
    }
    in->end -= in->start;
    memmove(in->bytes, in->bytes + in->start, in->end); /* of a frame whose rest comes with the next read */
    return 1;
}

/* Until the connection is over. A frame that the full socket has not taken waits, and with it the TUN. */
static void loop(int tun_fd, int socket_fd) {
    static struct buffer in, out;
    struct cipher sealer = new_cipher(1), opener = new_cipher(0);
    int max_fd = tun_fd > socket_fd ? tun_fd : socket_fd;
    int open = 1;
    in.end = out.start = out.end = 0;
    while (open) {
        fd_set readable, writable;
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(socket_fd, &readable);
        if (out.start < out.end) FD_SET(socket_fd, &writable);
        else FD_SET(tun_fd, &readable);
        check(select(max_fd + 1, &readable, &writable, NULL, NULL), "select");
        if (FD_ISSET(tun_fd, &readable)) open = outbound(tun_fd, socket_fd, &out, &sealer);
        if (open && FD_ISSET(socket_fd, &writable)) open = flush(socket_fd, &out);
        if (open && FD_ISSET(socket_fd, &readable)) open = inbound(socket_fd, tun_fd, &in, &opener);
    }
    EVP_CIPHER_CTX_free(sealer.context);
    EVP_CIPHER_CTX_free(opener.context);
    fprintf(stderr, "the connection is over\n");
}

int main(int argc, char **argv) {
    int server = argc == 4 && strcmp(argv[1], "server") == 0;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    int client = argc == 4 && strcmp(argv[1], "client") == 0;
    if ((!server && !client) || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) {
        fprintf(stderr, "usage: simplevpn-aes server|client IPV4-ADDRESS TUN\n");
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
