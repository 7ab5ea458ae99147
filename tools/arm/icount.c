/* A plugin of QEMU 7: counts executed instructions, in all, per function of the main program, and of the
 * block without branches in which most were executed.
 *
 *   cc -O2 -shared -fPIC -fvisibility=hidden -o icount.so icount.c
 *   qemu-aarch64 -plugin ./icount.so -d plugin -D counts.txt ./program
 *
 * counts.txt: one line "count name" per function, one "count block address length", then the total. Debian
 * packages no header for plugins; below is what is used here of the interface, version 1. Later QEMUs ask for
 * a later version and refuse this one. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ADD_U64 0
#define MOST_FUNCTIONS 4096
#define MOST_BLOCKS (1 << 16) /* a power of two */

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *to,
                                              uint64_t value);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

static struct {
    char name[64];
    uint64_t count;
} functions[MOST_FUNCTIONS]; /* the last one takes what finds no place */
static struct {
    uint64_t address, length, count;
} blocks[MOST_BLOCKS]; /* by address; two of them that fall together are counted as one */
static int used;
static uint64_t total;

static uint64_t *counter(const char *name)
{
    int i = 0;
    while (i < used && strncmp(functions[i].name, name, sizeof functions[i].name - 1))
        i++;
    if (i == used && used < MOST_FUNCTIONS - 1) {
        used++;
        snprintf(functions[i].name, sizeof functions[i].name, "%s", name);
    }
    return &functions[i].count;
}

/* A block is translated once and executed often: from start to end, branches being its last instructions. */
static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    uint64_t length = qemu_plugin_tb_n_insns(block);
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    uint64_t address = qemu_plugin_tb_vaddr(block), slot = address / 4 % MOST_BLOCKS;
    blocks[slot].address = address;
    blocks[slot].length = length;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &blocks[slot].count, length);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &total, length);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, counter(name ? name : "?"), length);
}

static void finished(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    char line[128];
    for (int i = 0; i < used; i++) {
        snprintf(line, sizeof line, "%llu %.63s\n", (unsigned long long)functions[i].count,
                 functions[i].name);
        qemu_plugin_outs(line);
    }
    size_t hottest = 0;
    for (size_t i = 1; i < MOST_BLOCKS; i++)
        if (blocks[i].count > blocks[hottest].count)
            hottest = i;
    snprintf(line, sizeof line, "%llu block %#llx %llu\n", (unsigned long long)blocks[hottest].count,
             (unsigned long long)blocks[hottest].address, (unsigned long long)blocks[hottest].length);
    qemu_plugin_outs(line);
    snprintf(line, sizeof line, "%llu total\n", (unsigned long long)total);
    qemu_plugin_outs(line);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
