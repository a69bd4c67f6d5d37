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
 * somebody else. An environment that ends stops its thread (ready.c) and closes its descriptors.
 *
 * Every function answers a number; a negative one is -errno. A wrong argument throws TypeError or RangeError
 * before anything happens. Memory handed in is read and written within its bounds only; since it may be
 * shared with another thread, no value is read twice.
 */

#include "netio.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_INSTRUCTIONS 64

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

/* filter(handle, program) → 0; only what the program lets pass arrives from now on: instructions of classic BPF, 8
   bytes each in the order of the machine, which the kernel checks */
static napi_value netio_filter(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  uint8_t *program;
  size_t length;
  if (!begin(env, info, 2, &call) || !descriptor(&call, 0, &slot, &handle) || !bytes(&call, 1, &program, &length))
    return NULL;
  struct sock_filter instructions[MOST_INSTRUCTIONS];
  if (length == 0 || length % sizeof *instructions != 0 || length > sizeof instructions) {
    throw_range(env, "Cannot filter: a program takes 1 to 64 instructions");
    return NULL;
  }
  memcpy(instructions, program, length);
  struct sock_fprog given = {.len = (unsigned short)(length / sizeof *instructions), .filter = instructions};
  return outcome(env, setsockopt(slot->fd, SOL_SOCKET, SO_ATTACH_FILTER, &given, sizeof given));
}

/* group(handle, ifindex, address) → 0; joins a multicast group on an interface, until the socket is closed */
static napi_value netio_group(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle, ifindex;
  uint8_t *name;
  size_t length;
  if (!begin(env, info, 3, &call) || !descriptor(&call, 0, &slot, &handle) ||
      !integer(&call, 1, 1, INT32_MAX, &ifindex) || !bytes(&call, 2, &name, &length))
    return NULL;
  struct group_req request;
  memset(&request, 0, sizeof request);
  if (length != sizeof(struct sockaddr_in) && length != sizeof(struct sockaddr_in6)) {
    throw_range(env, "Cannot join group: an address takes 16 or 28 bytes");
    return NULL;
  }
  memcpy(&request.gr_group, name, length);
  request.gr_interface = (uint32_t)ifindex;
  /* The kernel checks that the family in the address is that of the level. */
  int level = length == sizeof(struct sockaddr_in) ? IPPROTO_IP : IPPROTO_IPV6;
  return outcome(env, setsockopt(slot->fd, level, MCAST_JOIN_GROUP, &request, sizeof request));
}

/* clock(id) → microseconds of a clock of clock_gettime(2) */
static napi_value netio_clock(napi_env env, napi_callback_info info) {
  struct call call;
  int64_t id;
  struct timespec now;
  if (!begin(env, info, 1, &call) || !integer(&call, 0, 0, 11, &id)) return NULL;
  if (clock_gettime((clockid_t)id, &now) < 0) return outcome(env, -1);
  return number(env, (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
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

/* event() → handle of a new eventfd: eight bytes sent to it make it readable until they are received */
static napi_value netio_event(napi_env env, napi_callback_info info) {
  struct call call;
  if (!begin(env, info, 0, &call)) return NULL;
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return fd < 0 ? outcome(env, fd) : number(env, keep(call.netio, fd, true));
}

/* descriptor(handle) → the number under which another environment of this process can adopt it while it is open */
static napi_value netio_descriptor(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  if (!begin(env, info, 1, &call) || !descriptor(&call, 0, &slot, &handle)) return NULL;
  return number(env, slot->fd);
}

/* adopt(fd) → handle of a descriptor of our own for what another environment has open */
static napi_value netio_adopt(napi_env env, napi_callback_info info) {
  struct call call;
  int64_t given;
  if (!begin(env, info, 1, &call) || !integer(&call, 0, 0, INT32_MAX, &given)) return NULL;
  int type;
  socklen_t size = sizeof type;
  int fd = fcntl((int)given, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return outcome(env, fd);
  return number(env, keep(call.netio, fd, getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0));
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
      {"event", netio_event},     {"descriptor", netio_descriptor}, {"adopt", netio_adopt},
      {"errors", netio_errors},   {"filter", netio_filter},   {"clock", netio_clock},
      {"group", netio_group},
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
