/* What the parts of netio share: the table of descriptors, and the checks that every argument goes through. */

#ifndef NETIO_H
#define NETIO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define NAPI_VERSION 8

#include <node_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
  INDEX_BITS = 12,
  SLOTS = 1 << INDEX_BITS,
  GENERATIONS = 1 << 18,
  BATCH = 64,       /* messages, events or descriptors per call */
  NAME_BYTES = 128, /* room for one socket address */
  MAX_ARGS = 6,
};

struct slot {
  int fd; /* -1: free */
  uint32_t generation;
  bool stream; /* a TUN: read and write instead of messages */
  bool watched;
};

/* One environment's descriptors and readiness. */
struct netio {
  struct slot slots[SLOTS];
  uint32_t highest; /* slots in use lie below */
  uint32_t watched; /* how many keep the process alive */
  napi_ref callback;
  bool running; /* what follows is there */
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

/* argument.c: each returns false with an exception pending. */

bool throw_type(napi_env env, const char *what);
bool throw_range(napi_env env, const char *what);
/* Takes the arguments of a call, at least `count`. */
bool begin(napi_env env, napi_callback_info info, size_t count, struct call *call);
/* A whole number between two bounds. */
bool integer(struct call *call, size_t index, double lowest, double highest, int64_t *out);
/* A Uint8Array; an Int32Array. Never NULL. */
bool bytes(struct call *call, size_t index, uint8_t **data, size_t *length);
bool numbers(struct call *call, size_t index, int32_t **data, size_t *length);
/* A handle that is open. */
bool descriptor(struct call *call, size_t index, struct slot **slot, int64_t *handle);

/* The open descriptor of a handle, or NULL. */
struct slot *find(struct netio *netio, int64_t handle);
/* A result; a result or -errno. */
napi_value number(napi_env env, int64_t value);
napi_value outcome(napi_env env, int64_t result);

/* batch.c */
napi_value netio_receive(napi_env env, napi_callback_info info);
napi_value netio_send(napi_env env, napi_callback_info info);
napi_value netio_errors(napi_env env, napi_callback_info info);
napi_value netio_checksum(napi_env env, napi_callback_info info);
napi_value netio_split(napi_env env, napi_callback_info info);
napi_value netio_join(napi_env env, napi_callback_info info);

/* ready.c */
napi_value netio_on_ready(napi_env env, napi_callback_info info);
napi_value netio_watch(napi_env env, napi_callback_info info);
napi_value netio_wait(napi_env env, napi_callback_info info);
napi_value netio_close(napi_env env, napi_callback_info info);
/* Cleanup hook of an environment: stops its thread, closes its descriptors. */
void end_environment(void *netio);

#endif
