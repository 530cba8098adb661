// The one thing that is asked of librdkafka beyond its interface: docs/adr/0022-headers-as-they-came.md.
#include "rd.h" // and with it config.h: what is switched off after it has no part in a message, and headers of its own
#undef WITH_SSL
#undef WITH_ZLIB
#include "rdkafka_int.h"
#include "rdkafka_msg.h"

// A consumed message's headers as the log has them, and how many bytes they are: 0 where it has none. They live as long
// as the message.
size_t millrace_raw_headers(const rd_kafka_message_t *message, const void **start) {
        const rd_kafka_msg_t *own        = rd_kafka_message2msg((rd_kafka_message_t *)message);
        const rd_kafkap_bytes_t *headers = &own->rkm_u.consumer.binhdrs;
        *start                           = headers->data;
        return (size_t)RD_KAFKAP_BYTES_LEN(headers);
}
