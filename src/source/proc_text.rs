//! What the files under /proc say, as numbers: pure functions over their text. Lines that are not understood are skipped.
//!
//! Formats: proc(5); `Documentation/admin-guide/iostats.rst` of Linux.

/// Time of one processor (or of all, `cpu`) since the start, in ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// `cpu`, `cpu0`, ...
    pub name: String,
    /// Everything but idle and waiting for I/O.
    pub busy: u64,
    /// Everything.
    pub total: u64,
}

/// Two counters of one device since the start, in bytes: read and written, or received and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByteCounters {
    /// `vda`, `lo`, ...
    pub name: String,
    /// Read or received.
    pub incoming: u64,
    /// Written or sent.
    pub outgoing: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

/// `/proc/diskstats` counts in sectors of this size, whatever the device.
const SECTOR_BYTES: u64 = 512;

/// `/proc/stat`.
pub(super) fn cpu_times(text: &str) -> Vec<CpuTimes> {
    let cpu = |line: &str| {
        let (name, rest) = line.split_once(' ').filter(|(name, _)| name.starts_with("cpu"))?;
        // user nice system idle iowait irq softirq steal; guest times are counted in user already.
        let times: Vec<u64> = rest.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
        let idle = times.get(3)? + times.get(4).unwrap_or(&0);
        let total: u64 = times.iter().sum();
        Some(CpuTimes { name: name.to_owned(), busy: total - idle, total })
    };
    text.lines().filter_map(cpu).collect()
}

/// `/proc/meminfo`. Kernels before 3.14 do not say what is available: free, buffers and cache stand for it.
pub(super) fn memory(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = field("MemTotal").filter(|&total| total > 0)?;
    let available = field("MemAvailable").or_else(|| Some(field("MemFree")? + field("Buffers")? + field("Cached")?))?;
    Some(Memory { total, available: available.min(total) })
}

/// `/proc/diskstats`: whole devices, without loop and RAM devices and without the partitions of a device that is there itself.
pub(super) fn disks(text: &str) -> Vec<ByteCounters> {
    let disk = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let bytes = |at: usize| fields.get(at)?.parse::<u64>().ok()?.checked_mul(SECTOR_BYTES);
        Some(ByteCounters { name: (*fields.get(2)?).to_owned(), incoming: bytes(5)?, outgoing: bytes(9)? })
    };
    let all: Vec<_> = text.lines().filter_map(disk).collect();
    let is_whole = |name: &str| {
        !name.starts_with("loop")
            && !name.starts_with("ram")
            && !all.iter().any(|other| is_partition(name, &other.name))
    };
    all.iter().filter(|disk| is_whole(&disk.name)).cloned().collect()
}

/// Whether `name` is `device` and a number: `sda1` of `sda`, `nvme0n1p2` of `nvme0n1`.
fn is_partition(name: &str, device: &str) -> bool {
    let Some(number) = name.strip_prefix(device) else { return false };
    let number = if device.ends_with(|c: char| c.is_ascii_digit()) { number.strip_prefix('p') } else { Some(number) };
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `/proc/net/dev`.
pub(super) fn networks(text: &str) -> Vec<ByteCounters> {
    let network = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let bytes = |at: usize| fields.get(at)?.parse().ok();
        Some(ByteCounters { name: name.trim().to_owned(), incoming: bytes(0)?, outgoing: bytes(8)? })
    };
    text.lines().filter_map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(name: &str, incoming: u64, outgoing: u64) -> ByteCounters {
        ByteCounters { name: name.into(), incoming, outgoing }
    }

    #[test]
    fn processors_are_busy_when_neither_idle_nor_waiting() {
        let text = "cpu  10 1 2 100 7 3 4 5 99 99\ncpu0 1 0 0 9\nintr 5 4\ncpux\nctxt 5\n";
        let [all, first] =
            [("cpu", 25, 132), ("cpu0", 1, 10)].map(|(name, busy, total)| CpuTimes { name: name.into(), busy, total });
        assert_eq!(cpu_times(text), [all, first]);
    }

    #[test]
    fn memory_is_what_is_available_or_what_old_kernels_say_instead() {
        let new = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    400 kB\n";
        assert_eq!(memory(new), Some(Memory { total: 1_024_000, available: 409_600 }));
        let old = "MemTotal: 1000 kB\nMemFree: 10 kB\nBuffers: 20 kB\nCached: 30 kB\nSwapCached: 5 kB\n";
        assert_eq!(memory(old), Some(Memory { total: 1_024_000, available: 61_440 }));
        assert_eq!(memory("nothing"), None);
    }

    #[test]
    fn disks_are_whole_devices_in_bytes() {
        let text = " 7 0 loop0 1 0 1 0 1 0 1 0 0 0 0\n 254 0 vda 10 0 4 0 20 0 6 0 0 0 0\n 254 1 vda1 1 0 1 0 1 0 1 0 0 0 0\n \
                    259 0 nvme0n1 1 0 2 0 1 0 3 0 0\n 259 1 nvme0n1p1 1 0 2 0 1 0 3 0 0\n 9 0 md127 1 0 8 0 1 0 9 0 0\nbroken\n";
        let expected = [counters("vda", 2048, 3072), counters("nvme0n1", 1024, 1536), counters("md127", 4096, 4608)];
        assert_eq!(disks(text), expected);
    }

    #[test]
    fn networks_are_named_before_the_colon() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets\n    lo: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n\
                    eth0:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        assert_eq!(networks(text), [counters("lo", 100, 200), counters("eth0", 5, 6)]);
    }
}
