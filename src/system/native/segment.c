/* Splitting and joining super-packets: see segment.h. Pure computation, no system calls. */

#include "segment.h"
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <string.h>

enum {
  TCP = 6,
  UDP = 17,
  FRAME_MOST = 256,
  LENGTH_MOST = 65535,
  FIN = 0x01,
  SYN = 0x02,
  RST = 0x04,
  PSH = 0x08,
  URG = 0x20,
  CWR = 0x80,
};

static uint16_t get16(const uint8_t *at) {
  return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at) {
  return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint32_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
  put16(at, value >> 16);
  put16(at + 2, value);
}

/* Folds a sum of 16-bit words in network order. */
static uint16_t fold(uint64_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)sum;
}

/* Two numbers at once where the processor can; the compiler takes them apart where it cannot. */
typedef uint64_t lanes __attribute__((vector_size(16)));

/* Adds 16 bytes to a sum, two words of four bytes to a lane; `into` gets a copy unless it is NULL. */
static inline __attribute__((always_inline)) void take(lanes *sum, uint8_t *into, const uint8_t *bytes) {
  lanes words;
  memcpy(&words, bytes, sizeof words);
  if (into != NULL) memcpy(into, &words, sizeof words);
  *sum += (words & (lanes){UINT32_MAX, UINT32_MAX}) + (words >> 32);
}

/* The sum of the bytes as 16-bit words in network order, folded, while they are copied if `into` is not NULL. Words
   are added four bytes at a time in host order, which gives the same sum with its bytes swapped (RFC 1071, 2(B)). */
static inline __attribute__((always_inline)) uint16_t walk(uint8_t *into, const uint8_t *bytes, size_t length) {
  lanes even = {0, 0}, odd = {0, 0};
  uint32_t word;
  for (; length >= 64; length -= 64, bytes += 64) {
    take(&even, into, bytes);
    take(&odd, into == NULL ? NULL : into + 16, bytes + 16);
    take(&even, into == NULL ? NULL : into + 32, bytes + 32);
    take(&odd, into == NULL ? NULL : into + 48, bytes + 48);
    if (into != NULL) into += 64;
  }
  if (into != NULL) memcpy(into, bytes, length);
  uint64_t sum = (uint64_t)fold(even[0]) + fold(even[1]) + fold(odd[0]) + fold(odd[1]);
  for (; length >= 4; length -= 4, bytes += 4) {
    memcpy(&word, bytes, 4);
    sum += word;
  }
  uint8_t rest[4] = {0, 0, 0, 0};
  memcpy(rest, bytes, length);
  memcpy(&word, rest, 4);
  uint16_t folded = fold(sum + word);
  uint8_t swapped[2];
  memcpy(swapped, &folded, 2);
  return get16(swapped);
}

static uint16_t sum_of(const uint8_t *bytes, size_t length) {
  return walk(NULL, bytes, length);
}

/* Copies bytes, which lie elsewhere, and answers their sum: they are fetched from memory once. */
static uint16_t copy_sum(uint8_t *restrict into, const uint8_t *restrict bytes, size_t length) {
  return walk(into, bytes, length);
}

uint16_t segment_checksum(const uint8_t *bytes, size_t length, uint64_t seed) {
  return (uint16_t)~fold(fold(seed) + (uint32_t)sum_of(bytes, length));
}

static bool overlap(const uint8_t *left, uint64_t left_size, const uint8_t *right, uint64_t right_size) {
  return (uintptr_t)left < (uintptr_t)right + right_size && (uintptr_t)right < (uintptr_t)left + left_size;
}

/* Checks what both directions share. Answers what is wrong, or NULL. */
static const char *check(const struct segment *job) {
  const int32_t *field = job->fields;
  if (field[SEGMENT_PROTOCOL] != TCP && field[SEGMENT_PROTOCOL] != UDP) return "Cannot change packet: neither TCP nor UDP";
  if (field[SEGMENT_OFFSET] < 0 || field[SEGMENT_LENGTH] < 0 || (size_t)field[SEGMENT_OFFSET] > job->source_size ||
      (size_t)field[SEGMENT_LENGTH] > job->source_size - (size_t)field[SEGMENT_OFFSET])
    return "Cannot change packet: it reaches past its buffer";
  if (field[SEGMENT_TARGET] < 0 || (size_t)field[SEGMENT_TARGET] > job->target_size)
    return "Cannot change packet: the target lies past its buffer";
  if (field[SEGMENT_SIZE] < 1 || field[SEGMENT_SIZE] > LENGTH_MOST) return "Cannot change packet: bad segment size";
  if (job->frame_size > FRAME_MOST) return "Cannot change packet: the frame is too long";
  return NULL;
}

/* Where the IP header of a frame ends its fixed part. Answers what is wrong, or NULL. */
static const char *check_ip(const uint8_t *frame, size_t size, int32_t at) {
  if (at == -1) return NULL;
  if (at < 0 || (size_t)at >= size) return "Cannot change packet: no IP header in the frame";
  size_t length = frame[at] >> 4 == 4 ? (size_t)(frame[at] & 15) * 4 : frame[at] >> 4 == 6 ? 40 : 0;
  if (length < 20 || length > size - (size_t)at) return "Cannot change packet: no IP header in the frame";
  return NULL;
}

/* Sets length, id and checksum of an IP header whose packet has `total` bytes. IPv6 has no id. */
static void stamp_ip(uint8_t *header, uint32_t total, uint32_t id) {
  if (header[0] >> 4 == 6) {
    put16(header + 4, total - 40);
    return;
  }
  put16(header + 2, total);
  put16(header + 4, id);
  put16(header + 10, 0);
  put16(header + 10, segment_checksum(header, (size_t)(header[0] & 15) * 4, 0));
}

/* Length of the transport header at the start of `length` bytes, 0 if it is not whole. */
static uint32_t header_length(int32_t protocol, const uint8_t *header, uint32_t length) {
  if (protocol == UDP) return length >= 8 ? 8 : 0;
  if (length < 20) return 0;
  uint32_t size = (uint32_t)(header[12] >> 4) * 4;
  return size >= 20 && size <= length ? size : 0;
}

int64_t segment_split(struct segment *job, const char **wrong) {
  int32_t *field = job->fields;
  uint8_t frame[FRAME_MOST], header[60];
  if ((*wrong = check(job)) != NULL) return 0;
  const uint8_t *source = job->source + field[SEGMENT_OFFSET];
  uint8_t *target = job->target + field[SEGMENT_TARGET];
  uint32_t length = (uint32_t)field[SEGMENT_LENGTH], share = (uint32_t)field[SEGMENT_SIZE];
  int32_t protocol = field[SEGMENT_PROTOCOL], ip = field[SEGMENT_IP];
  uint32_t frame_size = (uint32_t)job->frame_size;
  memcpy(frame, job->frame, frame_size);
  if ((*wrong = check_ip(frame, frame_size, ip)) != NULL) return 0;
  if (length > LENGTH_MOST) return *wrong = "Cannot split packet: longer than 65535 bytes", 0;
  memcpy(header, source, length < sizeof header ? length : sizeof header);
  uint32_t header_size = header_length(protocol, header, length);
  if (header_size == 0) return *wrong = "Cannot split packet: its transport header is not whole", 0;
  uint32_t payload = length - header_size;
  uint32_t count = payload <= share ? 1 : (payload + share - 1) / share;
  uint64_t total = (uint64_t)count * (frame_size + header_size) + payload;
  if (total > job->target_size - (size_t)field[SEGMENT_TARGET])
    return *wrong = "Cannot split packet: the target is too small", 0;
  if (ip >= 0 && frame_size - (uint32_t)ip + header_size + (payload < share ? payload : share) > LENGTH_MOST)
    return *wrong = "Cannot split packet: a segment is too long for IP", 0;
  if (overlap(source, length, target, total)) return *wrong = "Cannot split packet: the target overlaps it", 0;

  const uint8_t *data = source + header_size;
  uint32_t id = ip >= 0 ? get16(frame + ip + 4) : 0;
  for (uint32_t index = 0; index < count; index++) {
    uint32_t chunk = index + 1 < count ? share : payload - index * share;
    if (ip >= 0) stamp_ip(frame + ip, frame_size - (uint32_t)ip + header_size + chunk, id + index);
    memcpy(target, frame, frame_size);
    target += frame_size;
    memcpy(target, header, header_size);
    uint32_t body = copy_sum(target + header_size, data, chunk);
    uint32_t at = protocol == TCP ? 16 : 6;
    if (protocol == TCP) {
      put32(target + 4, get32(header + 4) + index * share);
      if (index > 0) target[13] &= (uint8_t)~CWR;
      if (index + 1 < count) target[13] &= (uint8_t) ~(FIN | PSH);
    } else {
      put16(target + 4, 8 + chunk);
    }
    put16(target + at, 0);
    uint64_t seed = (uint64_t)(uint32_t)field[SEGMENT_SEED_OUT] + header_size + chunk + body;
    uint16_t sum = segment_checksum(target, header_size, seed);
    put16(target + at, protocol == UDP && sum == 0 ? 0xffff : sum);
    target += header_size + chunk;
    data += chunk;
  }
  field[SEGMENT_COUNT] = (int32_t)count;
  return (int64_t)total;
}

/* Whether a segment's checksum is right; what lies behind `length` is in the seed. One without (UDP's 0) says nothing
   and is not. */
static bool intact(int32_t protocol, const uint8_t *packet, uint32_t length, uint64_t seed) {
  if (protocol == UDP && get16(packet + 6) == 0) return false;
  return segment_checksum(packet, length, seed + length) == 0;
}

/* Whether a segment continues a stream: all header fields alike but those that count on. */
static bool follows(int32_t protocol, const uint8_t *first, const uint8_t *next, uint32_t size, uint32_t sequence) {
  if (protocol == UDP) return memcmp(first, next, 4) == 0;
  return memcmp(first, next, 4) == 0 && get32(next + 4) == sequence && memcmp(first + 8, next + 8, 5) == 0 &&
         ((first[13] ^ next[13]) & ~(FIN | PSH | CWR)) == 0 && (next[13] & CWR) == 0 &&
         memcmp(first + 14, next + 14, 2) == 0 && memcmp(first + 18, next + 18, size - 18) == 0;
}

int64_t segment_join(struct segment *job, const char **wrong) {
  int32_t *field = job->fields;
  uint8_t frame[FRAME_MOST];
  if ((*wrong = check(job)) != NULL) return 0;
  const uint8_t *source = job->source + field[SEGMENT_OFFSET];
  uint8_t *target = job->target + field[SEGMENT_TARGET];
  size_t capacity = job->target_size - (size_t)field[SEGMENT_TARGET];
  uint32_t length = (uint32_t)field[SEGMENT_LENGTH], step = (uint32_t)field[SEGMENT_SIZE];
  uint32_t frame_size = (uint32_t)job->frame_size, seed = (uint32_t)field[SEGMENT_SEED_IN];
  int32_t protocol = field[SEGMENT_PROTOCOL], ip = field[SEGMENT_IP];
  bool vnet = field[SEGMENT_VNET] != 0;
  memcpy(frame, job->frame, frame_size);
  if ((*wrong = check_ip(frame, frame_size, ip)) != NULL) return 0;
  if (vnet && ip < 10) return *wrong = "Cannot join packets: no room for the virtio_net_hdr", 0;
  if (field[SEGMENT_STRIP] < 0 || field[SEGMENT_STRIP] > FRAME_MOST || field[SEGMENT_MOST] < 1)
    return *wrong = "Cannot join packets: bad frame length or count", 0;
  if (overlap(source, length, target, capacity < FRAME_MOST + LENGTH_MOST ? capacity : FRAME_MOST + LENGTH_MOST))
    return *wrong = "Cannot join packets: the target overlaps them", 0;

  uint32_t strip = (uint32_t)field[SEGMENT_STRIP];
  uint32_t first_size = length < step ? length : step;
  field[SEGMENT_COUNT] = 0;
  if (first_size <= strip) return 0;
  const uint8_t *first = source + strip;
  uint32_t header_size = header_length(protocol, first, first_size - strip);
  if (header_size == 0 || !intact(protocol, first, first_size - strip, seed)) return 0;
  if (protocol == UDP && get16(first + 4) != first_size - strip) return 0;
  uint32_t share = first_size - strip - header_size;
  uint32_t most = LENGTH_MOST - (ip >= 0 ? frame_size - (uint32_t)ip : 0);
  if (header_size + share > most || capacity < (size_t)frame_size + header_size + share)
    return *wrong = "Cannot join packets: the target is too small", 0;
  if (capacity - frame_size < most) most = (uint32_t)(capacity - frame_size);

  /* The first segment is copied before anything is compared with it, so that what is compared stays put. */
  uint8_t *packet = target + frame_size;
  memcpy(packet, first, header_size + share);
  uint8_t opening[60];
  memcpy(opening, packet, header_size);
  uint32_t total = header_size + share, count = 1;
  bool last = share == 0 || (protocol == TCP && (opening[13] & (FIN | SYN | RST | PSH | URG)) != 0);
  for (uint32_t at = step; !last && at < length && (int32_t)count < field[SEGMENT_MOST]; at += step) {
    uint32_t size = length - at < step ? length - at : step;
    uint8_t header[60];
    if (size < strip + header_size) break;
    memcpy(header, source + at + strip, header_size);
    uint32_t chunk = size - strip - header_size;
    if (memcmp(source, source + at, strip) != 0) break;
    if (header_length(protocol, header, size - strip) != header_size || chunk == 0 || chunk > share) break;
    if (protocol == UDP && get16(header + 4) != 8 + chunk) break;
    if (!follows(protocol, opening, header, header_size, get32(opening + 4) + total - header_size)) break;
    if (total + chunk > most) break;
    /* What turns out to be damaged lies past the end then. */
    uint32_t body = copy_sum(packet + total, source + at + strip + header_size, chunk);
    if (!intact(protocol, header, header_size, (uint64_t)seed + chunk + body)) break;
    total += chunk;
    count++;
    last = chunk < share;
    if (protocol == TCP) {
      packet[13] |= header[13] & (FIN | PSH);
      last = last || (header[13] & (FIN | PSH)) != 0;
    }
  }

  if (ip >= 0) stamp_ip(frame + ip, frame_size - (uint32_t)ip + total, get16(frame + ip + 4));
  memcpy(target, frame, frame_size);
  uint32_t at = protocol == TCP ? 16 : 6;
  if (protocol == UDP) put16(packet + 4, total);
  uint64_t pseudo = (uint64_t)(uint32_t)field[SEGMENT_SEED_OUT] + total;
  if (vnet) {
    uint32_t start = frame_size - (uint32_t)ip;
    bool four = frame[ip] >> 4 == 4;
    struct virtio_net_hdr values = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM};
    if (count > 1) {
      values.gso_type = protocol == UDP ? 5 : four ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
      if (protocol == TCP && (opening[13] & CWR) != 0) values.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
      values.gso_size = (uint16_t)share;
    }
    values.hdr_len = (uint16_t)(start + header_size);
    values.csum_start = (uint16_t)start;
    values.csum_offset = (uint16_t)at;
    memcpy(target, &values, sizeof values);
    put16(packet + at, fold(pseudo));
  } else {
    put16(packet + at, 0);
    uint16_t sum = segment_checksum(packet, total, pseudo);
    put16(packet + at, protocol == UDP && sum == 0 ? 0xffff : sum);
  }
  field[SEGMENT_COUNT] = (int32_t)count;
  return (int64_t)frame_size + total;
}
