"""What the operating system says of the processor."""

import platform
import subprocess

# Instruction sets the kernels know: the name used here -> the word in /proc/cpuinfo, below the key of sysctl.
CPU_FEATURES = {
    "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni", "amx": "amx_int8", "neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm",
}
MACOS_FEATURES = {
    "avx2": "hw.optional.avx2_0", "fma": "hw.optional.fma", "avx512f": "hw.optional.avx512f",
    "avx512bw": "hw.optional.avx512bw", "avx512vnni": "hw.optional.avx512vnni", "neon": "hw.optional.neon",
    "dotprod": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM",
}


def cpu_features():
    """Those of the instruction sets in CPU_FEATURES that the operating system reports, in that order."""
    if platform.system() == "Darwin":
        keys = subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True, check=False).stdout
        present = {line.partition(":")[0] for line in keys.splitlines() if line.endswith(": 1")}
        return [name for name, key in MACOS_FEATURES.items() if key in present]
    try:
        with open("/proc/cpuinfo") as lines:
            words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    except OSError:
        return []
    return [name for name, word in CPU_FEATURES.items() if word in words]
