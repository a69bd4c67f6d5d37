/*
 * netio: what Node cannot do with descriptors.
 *
 * Node has no netlink, packet, seqpacket or abstract datagram sockets, no TUN, no SO_PEERCRED, and takes one
 * system call per packet. This addon hands those descriptors to TypeScript as small numbers ("handles"), tells
 * when they become ready, and moves many packets per call. It knows no policy: addresses, options, errors and
 * meanings are the business of native.ts.
 *
 * Kept per environment (main thread or worker): a table of the descriptors it opened. A handle is an index of
 * that table with a generation, so a closed or invented handle is refused and never reaches a descriptor of
 * somebody else. The first `watch` starts one thread that sleeps in epoll for all of them and calls back
 * through one threadsafe function; every watch is one-shot, so at most one call per descriptor is under way.
 * An environment that ends stops its thread and closes its descriptors.
 *
 * Every function answers a number; a negative one is -errno. A wrong argument throws TypeError or RangeError
 * before anything happens. Memory handed in is read and written within its bounds only; since it may be
 * shared with another thread, no value is read twice.
 */

#define _GNU_SOURCE
#define NAPI_VERSION 8

#include "segment.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <node_api.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
  INDEX_BITS = 12,
  SLOTS = 1 << INDEX_BITS,
  GENERATIONS = 1 << 18,
  BATCH = 64,         /* messages per call */
  ROW = 8,            /* numbers per message: offset, length, segment, flags, name length, pid, uid, gid */
  NAME_BYTES = 128,   /* room for one socket address */
  CONTROL_BYTES = 32, /* room for one ucred or one int and nothing more, so no descriptor can be passed to us */
  MAX_ARGS = 6,
};

struct slot {
  int fd; /* -1: free */
  uint32_t generation;
  bool stream; /* a TUN: read and write instead of messages */
  bool watched;
};

struct netio {
  struct slot slots[SLOTS];
  uint32_t highest; /* slots in use lie below */
  uint32_t watched; /* how many keep the process alive */
  napi_ref callback;
  bool running;
  int epoll;
  int stop;
  pthread_t thread;
  napi_threadsafe_function ready;
};

struct call {
  napi_env env;
  struct netio *netio;
  napi_value args[MAX_ARGS];
};

/* Arguments. Each returns false with an exception pending. */

static bool throw_type(napi_env env, const char *what) {
  napi_throw_type_error(env, NULL, what);
  return false;
}

static bool throw_range(napi_env env, const char *what) {
  napi_throw_range_error(env, NULL, what);
  return false;
}

static bool begin(napi_env env, napi_callback_info info, size_t count, struct call *call) {
  size_t given = MAX_ARGS;
  void *data = NULL;
  call->env = env;
  if (napi_get_cb_info(env, info, &given, call->args, NULL, &data) != napi_ok || data == NULL)
    return throw_type(env, "Cannot call netio: no arguments");
  call->netio = data;
  if (given < count) return throw_type(env, "Cannot call netio: too few arguments");
  return true;
}

static bool integer(struct call *call, size_t index, double lowest, double highest, int64_t *out) {
  napi_valuetype type;
  double value;
  if (napi_typeof(call->env, call->args[index], &type) != napi_ok || type != napi_number ||
      napi_get_value_double(call->env, call->args[index], &value) != napi_ok)
    return throw_type(call->env, "Cannot call netio: an argument is not a number");
  if (!(value >= lowest && value <= highest) || value != (double)(int64_t)value)
    return throw_range(call->env, "Cannot call netio: a number is out of range");
  *out = (int64_t)value;
  return true;
}

static bool view(struct call *call, size_t index, napi_typedarray_type wanted, void **data, size_t *length) {
  bool is = false;
  napi_typedarray_type type;
  if (napi_is_typedarray(call->env, call->args[index], &is) != napi_ok || !is ||
      napi_get_typedarray_info(call->env, call->args[index], &type, length, data, NULL, NULL) != napi_ok ||
      type != wanted)
    return throw_type(call->env, "Cannot call netio: an argument is not the right typed array");
  if (*data == NULL) *length = 0;
  return true;
}

static bool bytes(struct call *call, size_t index, uint8_t **data, size_t *length) {
  return view(call, index, napi_uint8_array, (void **)data, length);
}

static bool numbers(struct call *call, size_t index, int32_t **data, size_t *length) {
  return view(call, index, napi_int32_array, (void **)data, length);
}

static struct slot *find(struct netio *netio, int64_t handle) {
  if (handle < SLOTS) return NULL; /* generation 0: never given */
  struct slot *slot = &netio->slots[handle & (SLOTS - 1)];
  return slot->fd >= 0 && slot->generation == (uint32_t)(handle >> INDEX_BITS) ? slot : NULL;
}

static bool descriptor(struct call *call, size_t index, struct slot **slot, int64_t *handle) {
  if (!integer(call, index, 0, INT32_MAX, handle)) return false;
  *slot = find(call->netio, *handle);
  if (*slot == NULL) return throw_range(call->env, "Cannot call netio: that descriptor is not open");
  return true;
}

static napi_value number(napi_env env, int64_t value) {
  napi_value result = NULL;
  napi_create_int64(env, value, &result);
  return result;
}

static napi_value outcome(napi_env env, int64_t result) {
  return number(env, result < 0 ? -errno : result);
}

/* Descriptors. */

/* Gives a descriptor a handle; closes it and answers -EMFILE if the table is full. */
static int64_t keep(struct netio *netio, int fd, bool stream) {
  for (uint32_t index = 0; index < SLOTS; index++) {
    struct slot *slot = &netio->slots[index];
    if (index < netio->highest && slot->fd >= 0) continue;
    if (index >= netio->highest) netio->highest = index + 1;
    slot->fd = fd;
    slot->generation = slot->generation + 1 < GENERATIONS ? slot->generation + 1 : 1;
    slot->stream = stream;
    slot->watched = false;
    return (int64_t)slot->generation << INDEX_BITS | index;
  }
  close(fd);
  return -EMFILE;
}

static void release(struct netio *netio, struct slot *slot) {
  if (netio->running) epoll_ctl(netio->epoll, EPOLL_CTL_DEL, slot->fd, NULL);
  close(slot->fd);
  slot->fd = -1;
}

/* open(domain, type, protocol) → handle */
static napi_value netio_open(napi_env env, napi_callback_info info) {
  struct call call;
  int64_t domain, type, protocol;
  if (!begin(env, info, 3, &call) || !integer(&call, 0, 0, 255, &domain) || !integer(&call, 1, 0, 15, &type) ||
      !integer(&call, 2, 0, 65535, &protocol))
    return NULL;
  if (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6 && domain != AF_NETLINK && domain != AF_PACKET) {
    throw_range(env, "Cannot open socket: unknown family");
    return NULL;
  }
  int fd = socket((int)domain, (int)type | SOCK_NONBLOCK | SOCK_CLOEXEC, (int)protocol);
  return fd < 0 ? outcome(env, fd) : number(env, keep(call.netio, fd, false));
}

/* tun(name, flags, offloads) → handle; the 16 bytes of name receive the name that the kernel chose */
static napi_value netio_tun(napi_env env, napi_callback_info info) {
  struct call call;
  uint8_t *name;
  size_t length;
  int64_t flags, offloads;
  if (!begin(env, info, 3, &call) || !bytes(&call, 0, &name, &length) || !integer(&call, 1, 0, 65535, &flags) ||
      !integer(&call, 2, 0, INT32_MAX, &offloads))
    return NULL;
  if (length != IFNAMSIZ) {
    throw_range(env, "Cannot open TUN: the name takes 16 bytes");
    return NULL;
  }
  struct ifreq request;
  memset(&request, 0, sizeof request);
  memcpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = (short)((flags & (IFF_VNET_HDR | IFF_MULTI_QUEUE)) | IFF_TUN | IFF_NO_PI);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return outcome(env, -1);
  if (ioctl(fd, TUNSETIFF, &request) < 0 ||
      ((flags & IFF_VNET_HDR) && ioctl(fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0)) {
    int64_t failed = -errno;
    close(fd);
    return number(env, failed);
  }
  memcpy(name, request.ifr_name, IFNAMSIZ);
  return number(env, keep(call.netio, fd, true));
}

/* bind(handle, address), connect(handle, address) → 0; the address is a sockaddr, exactly as long as given */
static napi_value named(napi_env env, napi_callback_info info, int (*act)(int, const struct sockaddr *, socklen_t)) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  uint8_t *name;
  size_t length;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !bytes(&call, 1, &name, &length))
    return NULL;
  struct sockaddr_storage address;
  if (length < sizeof address.ss_family || length > NAME_BYTES) {
    throw_range(env, "Cannot use address: it takes 2 to 128 bytes");
    return NULL;
  }
  memcpy(&address, name, length);
  return outcome(env, act(slot->fd, (struct sockaddr *)&address, (socklen_t)length));
}

static napi_value netio_bind(napi_env env, napi_callback_info info) {
  return named(env, info, bind);
}

static napi_value netio_connect(napi_env env, napi_callback_info info) {
  return named(env, info, connect);
}

/* listen(handle, backlog) → 0 */
static napi_value netio_listen(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, backlog;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !integer(&call, 1, 0, 65535, &backlog))
    return NULL;
  return outcome(env, listen(slot->fd, (int)backlog));
}

/* accept(handle) → handle */
static napi_value netio_accept(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  if (!begin(env, info, 1, &call) || !descriptor(&call, 0, &slot, &handle)) return NULL;
  int fd = accept4(slot->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return fd < 0 ? outcome(env, fd) : number(env, keep(call.netio, fd, false));
}

/* option(handle, level, name, value) → 0; options that take an int */
static napi_value netio_option(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, level, name, value;
  if (!begin(env, info, 4, &call) || !descriptor(&call, 0, &slot, &handle) || !integer(&call, 1, 0, 65535, &level) ||
      !integer(&call, 2, 0, 65535, &name) || !integer(&call, 3, INT32_MIN, INT32_MAX, &value))
    return NULL;
  int setting = (int)value;
  return outcome(env, setsockopt(slot->fd, (int)level, (int)name, &setting, sizeof setting));
}

/* address(handle, into) → length of the socket's own address; into has 128 bytes */
static napi_value netio_address(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  uint8_t *into;
  size_t length;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !bytes(&call, 1, &into, &length))
    return NULL;
  if (length != NAME_BYTES) {
    throw_range(env, "Cannot read address: it takes 128 bytes");
    return NULL;
  }
  socklen_t size = NAME_BYTES;
  if (getsockname(slot->fd, (struct sockaddr *)into, &size) < 0) return outcome(env, -1);
  return number(env, size);
}

static int64_t credentials(int fd, int32_t *into) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return -errno;
  into[0] = peer.pid;
  into[1] = (int32_t)peer.uid;
  into[2] = (int32_t)peer.gid;
  return 0;
}

/* peer(handle, into) → 0; into receives pid, uid, gid */
static napi_value netio_peer(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  int32_t *into;
  size_t length;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !numbers(&call, 1, &into, &length))
    return NULL;
  if (length < 3) {
    throw_range(env, "Cannot read peer: it takes 3 numbers");
    return NULL;
  }
  return number(env, credentials(slot->fd, into));
}

/* peerOf(fd, into): the same for a descriptor of Node's; it is only looked at */
static napi_value netio_peer_of(napi_env env, napi_callback_info info) {
  struct call call;
  int64_t fd;
  int32_t *into;
  size_t length;
  if (!begin(env, info, 2, &call) || !integer(&call, 0, 0, INT32_MAX, &fd) || !numbers(&call, 1, &into, &length))
    return NULL;
  if (length < 3) {
    throw_range(env, "Cannot read peer: it takes 3 numbers");
    return NULL;
  }
  return number(env, credentials((int)fd, into));
}

/* close(handle) → 0 */
static napi_value netio_close(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  if (!begin(env, info, 1, &call) || !descriptor(&call, 0, &slot, &handle)) return NULL;
  struct netio *netio = call.netio;
  if (slot->watched && --netio->watched == 0) napi_unref_threadsafe_function(env, netio->ready);
  release(netio, slot);
  return number(env, 0);
}

/* Batches. */

struct batch {
  struct mmsghdr messages[BATCH];
  struct iovec pieces[BATCH];
  _Alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL_BYTES];
};

static void read_control(const struct msghdr *header, int32_t *row) {
  struct cmsghdr *item = CMSG_FIRSTHDR(header); /* there is room for one only */
  if (item == NULL) return;
  if (item->cmsg_level == SOL_UDP && item->cmsg_type == UDP_GRO && item->cmsg_len >= CMSG_LEN(sizeof(int)))
    memcpy(&row[2], CMSG_DATA(item), sizeof(int));
  if (item->cmsg_level == SOL_SOCKET && item->cmsg_type == SCM_CREDENTIALS &&
      item->cmsg_len >= CMSG_LEN(sizeof(struct ucred)))
    memcpy(&row[5], CMSG_DATA(item), sizeof(struct ucred));
}

static int64_t receive_messages(int fd, struct batch *batch, uint8_t *names, int count) {
  for (int index = 0; index < count; index++) {
    struct msghdr *header = &batch->messages[index].msg_hdr;
    memset(header, 0, sizeof *header);
    header->msg_iov = &batch->pieces[index];
    header->msg_iovlen = 1;
    header->msg_name = names + index * NAME_BYTES;
    header->msg_namelen = NAME_BYTES;
    header->msg_control = batch->control[index];
    header->msg_controllen = CONTROL_BYTES;
  }
  return recvmmsg(fd, batch->messages, (unsigned)count, MSG_DONTWAIT, NULL);
}

static int64_t read_packets(int fd, struct batch *batch, int count) {
  int done = 0;
  for (; done < count; done++) {
    ssize_t got = read(fd, batch->pieces[done].iov_base, batch->pieces[done].iov_len);
    if (got < 0) return done > 0 ? done : -1;
    batch->messages[done].msg_len = (unsigned)got;
  }
  return done;
}

/*
 * receive(handle, arena, stride, names, rows) → count
 * Message n goes to arena at n × stride, its sender's address to names at n × 128, its description to row n.
 */
static napi_value netio_receive(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, stride;
  uint8_t *arena, *names;
  int32_t *rows;
  size_t size, names_size, rows_size;
  if (!begin(env, info, 5, &call) || !descriptor(&call, 0, &slot, &handle) || !bytes(&call, 1, &arena, &size) ||
      !integer(&call, 2, 1, 1 << 24, &stride) || !bytes(&call, 3, &names, &names_size) ||
      !numbers(&call, 4, &rows, &rows_size))
    return NULL;
  size_t count = size / (size_t)stride;
  if (count > rows_size / ROW) count = rows_size / ROW;
  if (!slot->stream && count > names_size / NAME_BYTES) count = names_size / NAME_BYTES;
  if (count > BATCH) count = BATCH;
  if (count == 0) {
    throw_range(env, "Cannot receive: no room for one message");
    return NULL;
  }
  struct batch batch;
  for (size_t index = 0; index < count; index++) {
    batch.pieces[index].iov_base = arena + index * (size_t)stride;
    batch.pieces[index].iov_len = (size_t)stride;
  }
  int64_t got = slot->stream ? read_packets(slot->fd, &batch, (int)count)
                             : receive_messages(slot->fd, &batch, names, (int)count);
  if (got < 0) return outcome(env, -1);
  for (int64_t index = 0; index < got; index++) {
    int32_t row[ROW] = {(int32_t)(index * stride), (int32_t)batch.messages[index].msg_len, 0, 0, 0, 0, -1, -1};
    if (!slot->stream) {
      const struct msghdr *header = &batch.messages[index].msg_hdr;
      row[3] = header->msg_flags;
      row[4] = header->msg_namelen < NAME_BYTES ? (int32_t)header->msg_namelen : NAME_BYTES;
      read_control(header, row);
    }
    memcpy(rows + index * ROW, row, sizeof row);
  }
  return number(env, got);
}

static void set_segment(struct msghdr *header, uint8_t *control, uint16_t segment) {
  header->msg_control = control;
  header->msg_controllen = CMSG_SPACE(sizeof segment);
  struct cmsghdr *item = (struct cmsghdr *)control;
  item->cmsg_level = SOL_UDP;
  item->cmsg_type = UDP_SEGMENT;
  item->cmsg_len = CMSG_LEN(sizeof segment);
  memcpy(CMSG_DATA(item), &segment, sizeof segment);
}

static int64_t write_packets(int fd, struct batch *batch, int count) {
  int done = 0;
  for (; done < count; done++) {
    if (write(fd, batch->pieces[done].iov_base, batch->pieces[done].iov_len) < 0) return done > 0 ? done : -1;
  }
  return done;
}

/*
 * send(handle, arena, names, rows, count) → how many went out
 * Row n: offset and length in arena, segment size for UDP_SEGMENT or 0, unused, length of the receiver's
 * address in names at n × 128 or 0 for the connected peer.
 */
static napi_value netio_send(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, count;
  uint8_t *arena, *names;
  int32_t *rows;
  size_t size, names_size, rows_size;
  if (!begin(env, info, 5, &call) || !descriptor(&call, 0, &slot, &handle) || !bytes(&call, 1, &arena, &size) ||
      !bytes(&call, 2, &names, &names_size) || !numbers(&call, 3, &rows, &rows_size) ||
      !integer(&call, 4, 1, BATCH, &count))
    return NULL;
  if ((size_t)count > rows_size / ROW) {
    throw_range(env, "Cannot send: fewer rows than messages");
    return NULL;
  }
  struct batch batch;
  for (int64_t index = 0; index < count; index++) {
    int32_t row[ROW];
    memcpy(row, rows + index * ROW, sizeof row);
    if (row[0] < 0 || row[1] < 0 || (size_t)row[0] > size || (size_t)row[1] > size - (size_t)row[0] || row[2] < 0 ||
        row[2] > 65535 || row[4] < 0 || row[4] > NAME_BYTES ||
        (row[4] > 0 && (size_t)index >= names_size / NAME_BYTES)) {
      throw_range(env, "Cannot send: a row points outside");
      return NULL;
    }
    struct msghdr *header = &batch.messages[index].msg_hdr;
    memset(header, 0, sizeof *header);
    batch.pieces[index].iov_base = arena + row[0];
    batch.pieces[index].iov_len = (size_t)row[1];
    header->msg_iov = &batch.pieces[index];
    header->msg_iovlen = 1;
    if (row[4] > 0) {
      header->msg_name = names + index * NAME_BYTES;
      header->msg_namelen = (socklen_t)row[4];
    }
    if (row[2] > 0) set_segment(header, batch.control[index], (uint16_t)row[2]);
  }
  if (slot->stream) return outcome(env, write_packets(slot->fd, &batch, (int)count));
  return outcome(env, sendmmsg(slot->fd, batch.messages, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL));
}

/* Readiness. */

static void call_ready(napi_env env, napi_value callback, void *context, void *data) {
  (void)context;
  if (env == NULL || callback == NULL) return; /* the environment is going away */
  napi_value undefined, handle;
  napi_get_undefined(env, &undefined);
  napi_create_uint32(env, (uint32_t)(uintptr_t)data, &handle);
  napi_call_function(env, undefined, callback, 1, &handle, NULL);
}

static void *wait_for_readiness(void *data) {
  struct netio *netio = data;
  struct epoll_event events[BATCH];
  for (;;) {
    int count = epoll_wait(netio->epoll, events, BATCH, -1);
    if (count < 0 && errno != EINTR) return NULL;
    for (int index = 0; index < count; index++) {
      if (events[index].data.u64 == 0) return NULL; /* the stop eventfd; no handle is 0 */
      napi_call_threadsafe_function(netio->ready, (void *)(uintptr_t)events[index].data.u64, napi_tsfn_nonblocking);
    }
  }
}

static void end_environment(void *data) {
  struct netio *netio = data;
  if (netio->running) {
    uint64_t one = 1;
    while (write(netio->stop, &one, sizeof one) < 0 && errno == EINTR) continue;
    pthread_join(netio->thread, NULL);
    napi_release_threadsafe_function(netio->ready, napi_tsfn_abort);
  }
  for (uint32_t index = 0; index < netio->highest; index++) {
    if (netio->slots[index].fd >= 0) release(netio, &netio->slots[index]);
  }
  if (netio->running) {
    close(netio->epoll);
    close(netio->stop);
  }
  netio->running = false;
}

/* Starts the thread. Answers 0 or -errno. */
static int64_t start(napi_env env, struct netio *netio) {
  napi_value callback, name;
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
  if (netio->callback == NULL || napi_get_reference_value(env, netio->callback, &callback) != napi_ok) return -EINVAL;
  netio->epoll = epoll_create1(EPOLL_CLOEXEC);
  netio->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (netio->epoll < 0 || netio->stop < 0 || epoll_ctl(netio->epoll, EPOLL_CTL_ADD, netio->stop, &event) < 0) {
    int64_t failed = -errno;
    if (netio->epoll >= 0) close(netio->epoll);
    if (netio->stop >= 0) close(netio->stop);
    return failed;
  }
  napi_create_string_utf8(env, "netio", NAPI_AUTO_LENGTH, &name);
  if (napi_create_threadsafe_function(env, callback, NULL, name, 0, 1, NULL, NULL, NULL, call_ready, &netio->ready) !=
      napi_ok) {
    close(netio->epoll);
    close(netio->stop);
    return -ENOMEM;
  }
  napi_unref_threadsafe_function(env, netio->ready);
  sigset_t all, before; /* signals are for Node's threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&netio->thread, NULL, wait_for_readiness, netio);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed != 0) {
    napi_release_threadsafe_function(netio->ready, napi_tsfn_abort);
    close(netio->epoll);
    close(netio->stop);
    return -failed;
  }
  netio->running = true;
  /* Hooks run last in, first out: this one must come before the threadsafe function's own. */
  napi_remove_env_cleanup_hook(env, end_environment, netio);
  napi_add_env_cleanup_hook(env, end_environment, netio);
  return 0;
}

/* onReady(callback) → 0; the callback gets the handle of each descriptor that became ready */
static napi_value netio_on_ready(napi_env env, napi_callback_info info) {
  struct call call;
  napi_valuetype type;
  if (!begin(env, info, 1, &call)) return NULL;
  if (napi_typeof(env, call.args[0], &type) != napi_ok || type != napi_function) {
    throw_type(env, "Cannot watch: the callback is not a function");
    return NULL;
  }
  if (call.netio->callback != NULL) return number(env, -EBUSY);
  return number(env, napi_create_reference(env, call.args[0], 1, &call.netio->callback) == napi_ok ? 0 : -ENOMEM);
}

/* watch(handle, events) → 0; calls once when readable (1), writable (4) or broken. Keeps the process alive. */
static napi_value netio_watch(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, events;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !integer(&call, 1, 0, 7, &events))
    return NULL;
  struct netio *netio = call.netio;
  if (!netio->running) {
    int64_t failed = start(env, netio);
    if (failed < 0) return number(env, failed);
  }
  struct epoll_event event = {.events = (uint32_t)(events & (EPOLLIN | EPOLLOUT)) | EPOLLONESHOT};
  event.data.u64 = (uint64_t)handle;
  if (epoll_ctl(netio->epoll, slot->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, slot->fd, &event) < 0)
    return outcome(env, -1);
  if (!slot->watched && netio->watched++ == 0) napi_ref_threadsafe_function(env, netio->ready);
  slot->watched = true;
  return number(env, 0);
}

/* wait(rows, timeoutMs) → how many are ready; rows of handle, wanted events, events that came. Blocks. */
static napi_value netio_wait(napi_env env, napi_callback_info info) {
  struct call call;
  int32_t *rows;
  size_t length;
  int64_t timeout;
  if (!begin(env, info, 2, &call) || !numbers(&call, 0, &rows, &length) || !integer(&call, 1, -1, INT32_MAX, &timeout))
    return NULL;
  size_t count = length / 3;
  if (count == 0 || count > BATCH) {
    throw_range(env, "Cannot wait: 1 to 64 descriptors");
    return NULL;
  }
  struct pollfd polled[BATCH];
  for (size_t index = 0; index < count; index++) {
    int32_t handle = rows[index * 3];
    struct slot *slot = handle < 0 ? NULL : find(call.netio, handle);
    if (slot == NULL) {
      throw_range(env, "Cannot wait: a descriptor is not open");
      return NULL;
    }
    polled[index].fd = slot->fd;
    polled[index].events = (short)(rows[index * 3 + 1] & (POLLIN | POLLOUT));
    polled[index].revents = 0;
  }
  int ready = poll(polled, count, (int)timeout);
  if (ready < 0) return outcome(env, ready);
  for (size_t index = 0; index < count; index++) rows[index * 3 + 2] = polled[index].revents;
  return number(env, ready);
}

/* Super-packets; see segment.h. */

/* checksum(arena, offset, length, seed) → the internet checksum of the bytes */
static napi_value netio_checksum(napi_env env, napi_callback_info info) {
  struct call call;
  uint8_t *arena;
  size_t size;
  int64_t offset, length, seed;
  if (!begin(env, info, 4, &call) || !bytes(&call, 0, &arena, &size) ||
      !integer(&call, 1, 0, (double)size, &offset) || !integer(&call, 2, 0, (double)(size - (size_t)offset), &length) ||
      !integer(&call, 3, 0, UINT32_MAX, &seed))
    return NULL;
  return number(env, segment_checksum(arena + offset, (size_t)length, (uint64_t)seed));
}

/* split(source, target, frame, numbers) and join(…) → bytes written to target; numbers are a struct segment */
static napi_value transform(napi_env env, napi_callback_info info, segment_transform *act) {
  struct call call;
  struct segment job;
  int32_t *fields;
  size_t length;
  if (!begin(env, info, 4, &call) || !bytes(&call, 0, &job.source, &job.source_size) ||
      !bytes(&call, 1, &job.target, &job.target_size) || !bytes(&call, 2, &job.frame, &job.frame_size) ||
      !numbers(&call, 3, &fields, &length))
    return NULL;
  if (length != SEGMENT_FIELDS) {
    throw_range(env, "Cannot change packet: wrong count of numbers");
    return NULL;
  }
  memcpy(job.fields, fields, sizeof job.fields);
  const char *wrong = NULL;
  int64_t written = act(&job, &wrong);
  if (wrong != NULL) {
    throw_range(env, wrong);
    return NULL;
  }
  fields[SEGMENT_COUNT] = job.fields[SEGMENT_COUNT];
  return number(env, written);
}

static napi_value netio_split(napi_env env, napi_callback_info info) {
  return transform(env, info, segment_split);
}

static napi_value netio_join(napi_env env, napi_callback_info info) {
  return transform(env, info, segment_join);
}

static void free_netio(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  free(data);
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback call;
  } verbs[] = {
      {"open", netio_open},       {"tun", netio_tun},         {"bind", netio_bind},     {"connect", netio_connect},
      {"listen", netio_listen},   {"accept", netio_accept},   {"option", netio_option}, {"address", netio_address},
      {"peer", netio_peer},       {"peerOf", netio_peer_of},  {"close", netio_close},   {"receive", netio_receive},
      {"send", netio_send},       {"onReady", netio_on_ready}, {"watch", netio_watch},   {"wait", netio_wait},
      {"checksum", netio_checksum}, {"split", netio_split},     {"join", netio_join},
  };
  struct netio *netio = calloc(1, sizeof *netio);
  if (netio == NULL || napi_set_instance_data(env, netio, free_netio, NULL) != napi_ok) {
    free(netio);
    napi_throw_error(env, NULL, "Cannot load netio: no memory");
    return NULL;
  }
  napi_add_env_cleanup_hook(env, end_environment, netio);
  for (size_t index = 0; index < sizeof verbs / sizeof *verbs; index++) {
    napi_value verb;
    if (napi_create_function(env, verbs[index].name, NAPI_AUTO_LENGTH, verbs[index].call, netio, &verb) != napi_ok ||
        napi_set_named_property(env, exports, verbs[index].name, verb) != napi_ok)
      return NULL;
  }
  return exports;
}
