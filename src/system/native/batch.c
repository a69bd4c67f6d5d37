/*
 * Many packets per call: recvmmsg and sendmmsg, or read and write where messages are none, over one arena that
 * the caller brings; and the doors of segment.c.
 */

#include "netio.h"
#include "segment.h"
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <string.h>
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
  ROW = 8,            /* numbers per message: offset, length, segment, flags, name length, pid, uid, gid */
  CONTROL_BYTES = 32, /* room for one ucred or one int and nothing more, so no descriptor can be passed to us */
};

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
napi_value netio_receive(napi_env env, napi_callback_info info) {
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
napi_value netio_send(napi_env env, napi_callback_info info) {
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

/*
 * errors(handle, arena, stride, names, rows) → count
 * What the network said of messages sent (IP_RECVERR, IPV6_RECVERR): message n as far as it was quoted goes to arena
 * at n × stride, whom it was meant for to names at n × 128. Row n: offset, length, errno, who says so
 * (SO_EE_ORIGIN_…), length of the name, ICMP type, ICMP code, the path's MTU.
 */
napi_value netio_errors(napi_env env, napi_callback_info info) {
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
  if (count > names_size / NAME_BYTES) count = names_size / NAME_BYTES;
  if (count > BATCH) count = BATCH;
  if (count == 0) {
    throw_range(env, "Cannot receive errors: no room for one message");
    return NULL;
  }
  size_t done = 0;
  for (; done < count; done++) {
    _Alignas(struct cmsghdr) uint8_t control[512];
    struct iovec piece = {.iov_base = arena + done * (size_t)stride, .iov_len = (size_t)stride};
    struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_name = names + done * NAME_BYTES,
                            .msg_namelen = NAME_BYTES, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(slot->fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (got < 0) {
      if (done > 0) break;
      return outcome(env, -1);
    }
    int32_t row[ROW] = {(int32_t)(done * (size_t)stride), (int32_t)got, 0, 0,
                        header.msg_namelen < NAME_BYTES ? (int32_t)header.msg_namelen : NAME_BYTES, 0, 0, 0};
    /* The socket asks for nothing else, so the first is the only one. */
    const struct cmsghdr *item = CMSG_FIRSTHDR(&header);
    bool four = item != NULL && item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_RECVERR;
    bool six = item != NULL && item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_RECVERR;
    struct sock_extended_err error;
    if ((four || six) && item->cmsg_len >= CMSG_LEN(sizeof error)) {
      memcpy(&error, CMSG_DATA(item), sizeof error);
      row[2] = (int32_t)error.ee_errno;
      row[3] = error.ee_origin;
      row[5] = error.ee_type;
      row[6] = error.ee_code;
      row[7] = (int32_t)error.ee_info;
    }
    memcpy(rows + done * ROW, row, sizeof row);
  }
  return number(env, (int64_t)done);
}

/* Super-packets; see segment.h. */

/* checksum(arena, offset, length, seed) → the internet checksum of the bytes */
napi_value netio_checksum(napi_env env, napi_callback_info info) {
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

napi_value netio_split(napi_env env, napi_callback_info info) {
  return transform(env, info, segment_split);
}

napi_value netio_join(napi_env env, napi_callback_info info) {
  return transform(env, info, segment_join);
}
