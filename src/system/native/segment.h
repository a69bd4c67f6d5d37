/*
 * Splitting super-packets into segments and joining segments into super-packets, as a network card with
 * segmentation offload does.
 *
 * A super-packet is one TCP or UDP header with up to 64 kB of payload; its segments each carry a frame of
 * headers in front, a transport header of their own and an equal share of the payload, the last one less.
 * What the frame holds (a tunnel header, an IP header) is the caller's business.
 */

#ifndef SEGMENT_H
#define SEGMENT_H

#include <stddef.h>
#include <stdint.h>

enum {
  SEGMENT_OFFSET,    /* split: of the transport header in source; join: of the first segment's frame */
  SEGMENT_LENGTH,    /* bytes from there on */
  SEGMENT_PROTOCOL,  /* 6 TCP, 17 UDP */
  SEGMENT_SIZE,      /* split: payload bytes per segment; join: bytes from one segment to the next */
  SEGMENT_STRIP,     /* join: bytes of frame before each transport header in source, the same in each */
  SEGMENT_IP,        /* where an IP header begins in the frame that is written, or -1: its lengths are set */
  SEGMENT_VNET,      /* join: 1 if the written frame begins with a virtio_net_hdr, to be filled in */
  SEGMENT_SEED_IN,   /* join: sum of the pseudo header in source, without the length */
  SEGMENT_SEED_OUT,  /* sum of the pseudo header in target, without the length */
  SEGMENT_TARGET,    /* where to write in target */
  SEGMENT_MOST,      /* join: how many segments to join at most */
  SEGMENT_COUNT,     /* answer: split: segments written; join: segments taken */
  SEGMENT_FIELDS
};

struct segment {
  uint8_t *source;
  size_t source_size;
  uint8_t *target;
  size_t target_size;
  uint8_t *frame; /* headers to put in front */
  size_t frame_size;
  int32_t fields[SEGMENT_FIELDS];
};

/* Answers the bytes written; sets `wrong` if the arguments make no sense, and has written nothing then. */
typedef int64_t segment_transform(struct segment *job, const char **wrong);

/* One super-packet into segments with whole checksums, back to back. */
segment_transform segment_split;

/*
 * Leading segments of one stream into one packet. 0: the first one is damaged or of another kind, nothing is
 * written. With a virtio_net_hdr the checksum is left to the receiver (VIRTIO_NET_HDR_F_NEEDS_CSUM).
 */
segment_transform segment_join;

/* The internet checksum (RFC 1071) of bytes, complemented, with a seed added before. */
uint16_t segment_checksum(const uint8_t *bytes, size_t length, uint64_t seed);

#endif
