/* Start of a bare Cortex-M for newlib with semihosting: vectors, floating point on, the C library's start. */
#include <stdint.h>

extern uint32_t _estack;
extern int _start(void);
void _init(void);
void _fini(void);
void reset(void);

void _init(void) {}
void _fini(void) {}

void reset(void)
{
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: both halves of the floating-point unit */
    __asm volatile("dsb\n\tisb");
#endif
    _start();
    for (;;) {
    }
}

static void stop(void)
{
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))&_estack, reset, stop, stop, stop, stop, stop, 0, 0, 0, 0, stop, stop, 0, stop, stop};
