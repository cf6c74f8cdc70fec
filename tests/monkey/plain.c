/* A C library as others write them: blocking calls, pthread's locks, nothing of ours. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int plain_sleep(long milliseconds)
{
    struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
    return nanosleep(&time, NULL);
}

/* Sends a line and gets it back in parts, by the calls that `how` says. The compiler knows the sizes of the buffers, and not `limit` and `count`: so these are
   __recv_chk, __recvfrom_chk, __read_chk, __poll_chk, __ppoll_chk, __fdelt_chk. */
int plain_echo(int fd, const char *line, int how, size_t limit, nfds_t count)
{
    char buffer[64];
    size_t length = strlen(line), done = 0;
    if (send(fd, line, length, MSG_NOSIGNAL) != (ssize_t)length)
        return -1;
    while (done < length) {
        char part[32];
        struct sockaddr_storage from;
        socklen_t from_length = sizeof from;
        struct pollfd fds[2] = { { fd, POLLIN, 0 }, { fd, POLLPRI, 0 } };
        struct timespec minute = { 60, 0 };
        fd_set set;
        ssize_t got;
        switch (how % 6) {
        case 0:
            got = recv(fd, part, limit, 0);
            break;
        case 1:
            got = recvfrom(fd, part, limit, 0, (struct sockaddr *)&from, &from_length);
            break;
        case 2:
            got = read(fd, part, limit);
            break;
        case 3:
            if (poll(fds, count, 60000) != 1)
                return -2;
            got = recv(fd, part, limit, MSG_DONTWAIT);
            break;
        case 4:
            if (ppoll(fds, count, &minute, NULL) != 1)
                return -3;
            got = recv(fd, part, limit, MSG_DONTWAIT);
            break;
        default:
            FD_ZERO(&set);
            FD_SET(fd, &set);
            if (select(fd + 1, &set, NULL, NULL, NULL) != 1 || !FD_ISSET(fd, &set))
                return -4;
            got = recv(fd, part, limit, MSG_DONTWAIT);
        }
        if (got <= 0)
            return -5;
        memcpy(buffer + done, part, got);
        done += got;
    }
    return memcmp(buffer, line, length) ? -6 : 0;
}

/* More than the buffer holds: the process is to be ended. */
ssize_t plain_overflow(int fd, size_t length)
{
    char buffer[8];
    ssize_t got = recv(fd, buffer, length, 0);
    return got > 0 ? buffer[0] : got;
}

/* Opens with flags that the compiler does not know: __open_2 or __open64_2. */
int plain_open(const char *path, int flags)
{
    return open(path, flags);
}

int plain_resolve(const char *name)
{
    struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo(name, "80", &hints, &found);
    if (error == 0)
        freeaddrinfo(found);
    return error;
}

/* A queue of tickets, under a static mutex and condition. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int tickets;

int plain_take_ticket(void)
{
    if (pthread_mutex_lock(&mutex))
        return -1;
    while (tickets == 0)
        if (pthread_cond_wait(&changed, &mutex))
            return -2;
    tickets--;
    return pthread_mutex_unlock(&mutex);
}

int plain_give_tickets(int count)
{
    if (pthread_mutex_lock(&mutex))
        return -1;
    tickets += count;
    pthread_cond_broadcast(&changed);
    return pthread_mutex_unlock(&mutex);
}

/* A recursive mutex, held over a call that blocks. */
static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int inside;

int plain_nested(long milliseconds)
{
    int alone;
    if (pthread_mutex_lock(&recursive) || pthread_mutex_lock(&recursive))
        return -1;
    inside++;
    plain_sleep(milliseconds);
    alone = inside == 1;
    inside--;
    if (pthread_mutex_unlock(&recursive) || pthread_mutex_unlock(&recursive))
        return -2;
    return alone ? 0 : -3;
}

/* A gate of a semaphore. */
static sem_t gate;

int plain_gate(void)
{
    return sem_init(&gate, 0, 0);
}

int plain_pass(void)
{
    while (sem_wait(&gate))
        if (errno != EINTR)
            return -1;
    return 0;
}

int plain_let_pass(void)
{
    return sem_post(&gate);
}
