/* What C programs do: threads, processes, files, memory, signals, sockets, time. Says `lives`. Each step names itself if it
   fails. Where ONCE is set, executing another program has to fail. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("line %d: %s: %s\n", __LINE__, #condition, strerror(errno));                                        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int counted;

static void *count(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        counted++;
        pthread_mutex_unlock(&lock);
    }
    void *memory = malloc(1 << 22);
    CHECK(memory);
    memset(memory, 1, 1 << 22);
    free(memory);
    return NULL;
}

static volatile sig_atomic_t signalled;
static void on_signal(int number) { signalled = number; }

static void threads(void) {
    pthread_t all[8];
    for (int i = 0; i < 8; i++) CHECK(pthread_create(&all[i], NULL, count, NULL) == 0);
    for (int i = 0; i < 8; i++) CHECK(pthread_join(all[i], NULL) == 0);
    CHECK(counted == 8000);
}

static void processes(void) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        (void)!write(ends[1], "hello", 5);
        _exit(3);
    }
    char text[8] = {0};
    CHECK(read(ends[0], text, sizeof text) == 5 && !strcmp(text, "hello"));
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);
    /* Through the C library's spawning, which prefers clone3. */
    status = system("exit 4");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (getenv("ONCE") ? 127 : 4));
}

static void files(void) {
    int file = open("file", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(file >= 0 && write(file, "0123456789", 10) == 10 && ftruncate(file, 5) == 0 && fsync(file) == 0);
    struct stat status;
    CHECK(fstat(file, &status) == 0 && status.st_size == 5 && fchmod(file, 0600) == 0);
    CHECK(flock(file, LOCK_EX) == 0);
    CHECK(close(file) == 0 && rename("file", "other") == 0 && symlink("other", "link") == 0);
    CHECK(access("link", R_OK) == 0 && mkdir("folder", 0755) == 0 && mkfifo("folder/fifo", 0600) == 0);
    CHECK(unlink("folder/fifo") == 0 && rmdir("folder") == 0 && unlink("link") == 0 && unlink("other") == 0);
}

static void memory(void) {
    char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && mprotect(page, 1 << 20, PROT_READ) == 0 && madvise(page, 1 << 20, MADV_DONTNEED) == 0);
    page = mremap(page, 1 << 20, 1 << 21, MREMAP_MAYMOVE);
    CHECK(page != MAP_FAILED && munmap(page, 1 << 21) == 0);
    int shared = memfd_create("some", MFD_CLOEXEC);
    CHECK(shared >= 0 && ftruncate(shared, 4096) == 0 && close(shared) == 0);
}

static void signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && raise(SIGUSR1) == 0 && signalled == SIGUSR1);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_delete(timer) == 0);
}

static void sockets(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    int client = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    CHECK(client >= 0 && connect(client, (struct sockaddr *)&address, length) == 0);
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(server >= 0 && send(client, "x", 1, MSG_NOSIGNAL) == 1);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, server, &event) == 0 && epoll_wait(poller, &event, 1, 5000) == 1);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && eventfd(0, EFD_CLOEXEC) >= 0);
}

int main(void) {
    threads();
    processes();
    files();
    memory();
    signals();
    sockets();
    struct timespec now, a_moment = {0, 1000};
    unsigned char random[16];
    struct rlimit limit;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0 && nanosleep(&a_moment, NULL) == 0);
    CHECK(getrandom(random, sizeof random, 0) == sizeof random && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1);
    puts("lives");
    return 0;
}
