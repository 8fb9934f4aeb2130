/* A middleware library for ssh-keygen's hardware keys (`-w`), which asks a token that is a program.
 *
 * OpenSSH reaches tokens through four functions (sk-api.h, version 10; PROTOCOL.u2f says what a token signs). These
 * here put each call on the socket that $INTERLOCK_TEST_TOKEN names, where `sk_token.py` answers it. Numbers are
 * big-endian; a string is its length in four bytes and then its bytes.
 *
 *   asked:    u8 'E' or 'S', u32 algorithm, u8 flags, strings: application, key handle, data, PIN
 *   answered: u8 0, then for 'E' strings: public key, key handle; for 'S' u8 flags, u32 counter, string: signature
 *             or u8 1 to 4: the error of that number, negated
 */
#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { VERSION = 0x000a0000, GENERAL = -1, UNSUPPORTED = -2, NOT_FOUND = -4, LONGEST = 1 << 16 };

struct sk_option;
struct sk_resident_key;

struct sk_enroll_response {
    uint8_t flags;
    uint8_t *public_key;
    size_t public_key_len;
    uint8_t *key_handle;
    size_t key_handle_len;
    uint8_t *signature;
    size_t signature_len;
    uint8_t *attestation_cert;
    size_t attestation_cert_len;
    uint8_t *authdata;
    size_t authdata_len;
};

struct sk_sign_response {
    uint8_t flags;
    uint32_t counter;
    uint8_t *sig_r;
    size_t sig_r_len;
    uint8_t *sig_s;
    size_t sig_s_len;
};

static int put(int to, const void *bytes, size_t n) {
    for (const char *at = bytes; n;) {
        ssize_t done = send(to, at, n, MSG_NOSIGNAL);
        if (done <= 0) return 0;
        at += done;
        n -= (size_t)done;
    }
    return 1;
}

static int put_string(int to, const void *bytes, size_t n) {
    uint32_t length = htonl((uint32_t)n);
    return put(to, &length, sizeof length) && put(to, bytes, n);
}

static int get(int from, void *bytes, size_t n) {
    for (char *at = bytes; n;) {
        ssize_t done = read(from, at, n);
        if (done <= 0) return 0;
        at += done;
        n -= (size_t)done;
    }
    return 1;
}

/* Whoever called frees it. */
static int get_string(int from, uint8_t **bytes, size_t *n) {
    uint32_t length;
    if (!get(from, &length, sizeof length)) return 0;
    *n = ntohl(length);
    return *n <= LONGEST && (*bytes = calloc(1, *n + 1)) && get(from, *bytes, *n);
}

/* The socket from which the answer can be read, or an error; the token's own errors are among them. */
static int ask(char what, uint32_t algorithm, uint8_t flags, const char *application, const uint8_t *handle,
               size_t handle_len, const uint8_t *data, size_t data_len, const char *pin) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = getenv("INTERLOCK_TEST_TOKEN");
    if (!path || strlen(path) >= sizeof at.sun_path) return NOT_FOUND;
    strcpy(at.sun_path, path);
    int token = socket(AF_UNIX, SOCK_STREAM, 0);
    if (token < 0) return GENERAL;
    algorithm = htonl(algorithm);
    if (!pin) pin = "";
    uint8_t status = 4;
    if (connect(token, (struct sockaddr *)&at, sizeof at) == 0) {
        int told = put(token, &what, 1) && put(token, &algorithm, 4) && put(token, &flags, 1) &&
                   put_string(token, application, strlen(application)) && put_string(token, handle, handle_len) &&
                   put_string(token, data, data_len) && put_string(token, pin, strlen(pin));
        if (!told || !get(token, &status, 1)) status = 1;
    }
    if (!status) return token;
    close(token);
    return -status;
}

uint32_t sk_api_version(void) { return VERSION; }

int sk_enroll(uint32_t algorithm, const uint8_t *challenge, size_t challenge_len, const char *application,
              uint8_t flags, const char *pin, struct sk_option **options, struct sk_enroll_response **response) {
    (void)options;
    int token = ask('E', algorithm, flags, application, NULL, 0, challenge, challenge_len, pin);
    if (token < 0) return token;
    struct sk_enroll_response *made = calloc(1, sizeof *made);
    int whole = made && get_string(token, &made->public_key, &made->public_key_len) &&
                get_string(token, &made->key_handle, &made->key_handle_len);
    if (whole) made->flags = flags;
    close(token);
    *response = made;
    return whole ? 0 : GENERAL;
}

int sk_sign(uint32_t algorithm, const uint8_t *data, size_t data_len, const char *application, const uint8_t *handle,
            size_t handle_len, uint8_t flags, const char *pin, struct sk_option **options,
            struct sk_sign_response **response) {
    (void)options;
    int token = ask('S', algorithm, flags, application, handle, handle_len, data, data_len, pin);
    if (token < 0) return token;
    struct sk_sign_response *made = calloc(1, sizeof *made);
    int whole = made && get(token, &made->flags, 1) && get(token, &made->counter, 4) &&
                get_string(token, &made->sig_r, &made->sig_r_len);
    if (whole) made->counter = ntohl(made->counter);
    close(token);
    *response = made;
    return whole ? 0 : GENERAL;
}

/* Nothing is resident: every key is in the handle that ssh-keygen keeps. */
int sk_load_resident_keys(const char *pin, struct sk_option **options, struct sk_resident_key ***keys, size_t *n) {
    (void)pin, (void)options, (void)keys, (void)n;
    return UNSUPPORTED;
}
