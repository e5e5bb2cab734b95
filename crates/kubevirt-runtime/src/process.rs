//! What this process costs, read from `/proc/self` when it is asked for.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

/// Ticks per second of the times in `/proc/self/stat`: fixed in Linux' interface to programs.
const USER_HZ: f64 = 100.0;

/// Resident memory, CPU time and open files, under the names of Prometheus' client libraries.
pub(crate) struct ProcessCollector {
    cpu: Counter,
    memory: Gauge,
    files: Gauge,
}

impl ProcessCollector {
    pub(crate) fn new() -> Self {
        const VALID: &str = "the metric's name is valid";
        Self {
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time.").expect(VALID),
            memory: Gauge::new("process_resident_memory_bytes", "Resident memory.").expect(VALID),
            files: Gauge::new("process_open_fds", "Open file descriptors.").expect(VALID),
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.cpu.desc(), self.memory.desc(), self.files.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&read("stat")) {
            self.cpu.reset();
            self.cpu.inc_by(seconds);
        }
        if let Some(bytes) = resident_bytes(&read("status")) {
            self.memory.set(bytes);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(files.count() as f64);
        }
        [self.cpu.collect(), self.memory.collect(), self.files.collect()].concat()
    }
}

/// Fields 14 and 15 of `stat`, counted from behind the command's name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / USER_HZ)
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_proc() {
        let stat = "7 (virt) api) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn this_process_costs_something() {
        let families = ProcessCollector::new().collect();
        assert!(families[1].get_metric()[0].get_gauge().get_value() > 0.0);
    }
}
