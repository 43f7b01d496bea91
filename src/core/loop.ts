/**
 * The event loop: select() mirrored. The C program says which fds it cares for, sleeps in select(), and asks
 * of each fd whether it is ready:
 *
 *     for (;;) {
 *         FD_ZERO(&readable);
 *         FD_SET(tun_fd, &readable);                           //  watch(tun.fd,    { readable: … })
 *         FD_SET(socket_fd, &readable);                        //  watch(socket.fd, { readable: … })
 *         select(max_fd + 1, &readable, 0, 0, 0);              //  libuv's epoll_wait()
 *         if (FD_ISSET(tun_fd, &readable))    outbound();      //  … => outbound(), in tunnel.ts
 *         if (FD_ISSET(socket_fd, &readable)) inbound();       //  … => receive(), in tcp.ts
 *     }
 *
 * (A full socket is in a second set, for writing.) Here the `for (;;)` is Node's own loop. koffi.node.poll
 * puts any fd into it (libuv's uv_poll_t). Readiness is level-triggered as with select(): an fd that still
 * has data calls back again. Only this file knows koffi's poll, which is undocumented: see loop.test.ts.
 */
import { node } from "koffi";

export interface Handlers {
  readable?: () => void; // FD_ISSET(fd, &readable)
  writable?: () => void; // FD_ISSET(fd, &writable)
  error: () => void; // POLLERR: ask getsockopt(SO_ERROR) or read() what happened; the watch is over
}

type Poll = (status: number, events: { readable: boolean; writable: boolean }) => void;

/**
 * One fd in the loop. Only for fds opened through libc: libuv aborts the process on an fd that Node itself
 * polls.
 */
export class Watch {
  private handle: node.PollHandle | undefined; // kept: a handle that is garbage-collected falls silent
  private stopped = false;
  private events = { readable: false, writable: false };
  private readonly fd: number;
  private readonly poll: Poll;

  constructor(fd: number, handlers: Handlers) {
    this.fd = fd;
    this.poll = (status, { readable, writable }) => {
      try {
        if (status !== 0) {
          this.stop(); // libuv has stopped it already; here we let go of the handle
          return handlers.error();
        }
        if (readable) handlers.readable?.();
        if (writable && this.events.writable) handlers.writable?.();
      } catch (error) {
        this.stop();
        setImmediate(() => {
          throw error; // from koffi's callback it would be swallowed; from here it reaches uncaughtException
        });
      }
    };
    this.want(handlers.readable !== undefined, handlers.readable === undefined);
  }

  /** FD_SET or FD_CLR: which kinds of readiness to wake up for from now on. After stop() it does nothing. */
  want(readable: boolean, writable: boolean): void {
    if (this.stopped) return; // the fd may be closed: on such a one libuv aborts the process
    if (readable === this.events.readable && writable === this.events.writable) return;
    this.events = { readable, writable };
    const callback = this.poll as unknown as (events: node.PollEvents) => void; // index.d.ts omits the status
    if (!this.handle) this.handle = node.poll(this.fd, this.events, callback);
    else if (readable || writable) this.handle.start(this.events, callback);
    else this.handle.stop();
  }

  /** Takes the fd out of the loop. Always before close(fd). */
  stop(): void {
    this.handle?.close();
    this.handle = undefined;
    this.stopped = true;
    this.events = { readable: false, writable: false };
  }
}

/** Puts `fd` into the loop: for reading if there is a `readable` handler, else for writing. */
export function watch(fd: number, handlers: Handlers): Watch {
  return new Watch(fd, handlers);
}

/**
 * Waits once for `fd`: true when it is ready (an error is readiness too: the next call on it tells), false
 * after `ms`.
 */
export function ready(fd: number, kind: "readable" | "writable", ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const done = (isReady: boolean) => {
      clearTimeout(deadline);
      once.stop();
      resolve(isReady);
    };
    // libuv runs timers before it polls: after a stall of the machine, look at the fd once more before saying
    // no
    const once = watch(fd, { [kind]: () => done(true), error: () => done(true) });
    const deadline = setTimeout(() => setImmediate(() => done(false)), ms);
  });
}
