/*
 * Readiness, and the end of descriptors.
 *
 * The first watch of an environment starts a thread that sleeps in epoll for all its descriptors and calls back
 * through one threadsafe function. Every watch is one-shot, so at most one call per descriptor is under way.
 */

#include "netio.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

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

static void release(struct netio *netio, struct slot *slot) {
  if (netio->running) epoll_ctl(netio->epoll, EPOLL_CTL_DEL, slot->fd, NULL);
  close(slot->fd);
  slot->fd = -1;
}

void end_environment(void *data) {
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
napi_value netio_on_ready(napi_env env, napi_callback_info info) {
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
napi_value netio_watch(napi_env env, napi_callback_info info) {
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
napi_value netio_wait(napi_env env, napi_callback_info info) {
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

/* close(handle) → 0 */
napi_value netio_close(napi_env env, napi_callback_info info) {
  struct call call;
  struct slot *slot;
  int64_t handle;
  if (!begin(env, info, 1, &call) || !descriptor(&call, 0, &slot, &handle)) return NULL;
  struct netio *netio = call.netio;
  if (slot->watched && --netio->watched == 0) napi_unref_threadsafe_function(env, netio->ready);
  release(netio, slot);
  return number(env, 0);
}
