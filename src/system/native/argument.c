/* The arguments of every call, checked before anything happens. */

#include "netio.h"
#include <errno.h>

bool throw_type(napi_env env, const char *what) {
  napi_throw_type_error(env, NULL, what);
  return false;
}

bool throw_range(napi_env env, const char *what) {
  napi_throw_range_error(env, NULL, what);
  return false;
}

bool begin(napi_env env, napi_callback_info info, size_t count, struct call *call) {
  size_t given = MAX_ARGS;
  void *data = NULL;
  call->env = env;
  if (napi_get_cb_info(env, info, &given, call->args, NULL, &data) != napi_ok || data == NULL)
    return throw_type(env, "Cannot call netio: no arguments");
  call->netio = data;
  if (given < count) return throw_type(env, "Cannot call netio: too few arguments");
  return true;
}

bool integer(struct call *call, size_t index, double lowest, double highest, int64_t *out) {
  double value; /* anything but a number is refused; nothing is converted */
  if (napi_get_value_double(call->env, call->args[index], &value) != napi_ok)
    return throw_type(call->env, "Cannot call netio: an argument is not a number");
  if (!(value >= lowest && value <= highest) || value != (double)(int64_t)value)
    return throw_range(call->env, "Cannot call netio: a number is out of range");
  *out = (int64_t)value;
  return true;
}

static int32_t nothing[1];

static bool view(struct call *call, size_t index, napi_typedarray_type wanted, void **data, size_t *length) {
  napi_typedarray_type type; /* anything but a typed array is refused */
  if (napi_get_typedarray_info(call->env, call->args[index], &type, length, data, NULL, NULL) != napi_ok ||
      type != wanted)
    return throw_type(call->env, "Cannot call netio: an argument is not the right typed array");
  if (*data == NULL) { /* empty or detached */
    *data = nothing;
    *length = 0;
  }
  return true;
}

bool bytes(struct call *call, size_t index, uint8_t **data, size_t *length) {
  return view(call, index, napi_uint8_array, (void **)data, length);
}

bool numbers(struct call *call, size_t index, int32_t **data, size_t *length) {
  return view(call, index, napi_int32_array, (void **)data, length);
}

struct slot *find(struct netio *netio, int64_t handle) {
  if (handle < SLOTS) return NULL; /* generation 0: never given */
  struct slot *slot = &netio->slots[handle & (SLOTS - 1)];
  return slot->fd >= 0 && slot->generation == (uint32_t)(handle >> INDEX_BITS) ? slot : NULL;
}

bool descriptor(struct call *call, size_t index, struct slot **slot, int64_t *handle) {
  if (!integer(call, index, 0, INT32_MAX, handle)) return false;
  *slot = find(call->netio, *handle);
  if (*slot == NULL) return throw_range(call->env, "Cannot call netio: that descriptor is not open");
  return true;
}

napi_value number(napi_env env, int64_t value) {
  napi_value result = NULL;
  napi_create_int64(env, value, &result);
  return result;
}

napi_value outcome(napi_env env, int64_t result) {
  return number(env, result < 0 ? -errno : result);
}
