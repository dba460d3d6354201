//! The figures of a run, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;

use super::Plan;
use super::process::Usage;

/// What a run has measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// Latencies of the operations that succeeded, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Failures by the server's code, refusals that were tried again included; -1 for failures
    /// without one.
    pub errors: BTreeMap<i32, u64>,
    /// What the server processes used while it was measured.
    pub usage: Usage,
    /// Bytes written meanwhile, by anybody, to the device under [`Plan::dir`]; `None` without one.
    pub device_bytes: Option<u64>,
}

impl Report {
    /// Operations that succeeded.
    pub fn operations(&self) -> u64 {
        self.latency_us.len()
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.operations() as f64 / self.plan.duration.as_secs_f64()
    }

    /// Latency that a share of the operations stayed within, in milliseconds; 0 if there were none.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Processor time of the servers per operation, in microseconds.
    pub fn cpu_us_per_operation(&self) -> f64 {
        self.per_operation(self.usage.cpu_us)
    }

    /// Bytes written to the device per operation; 0 without one.
    pub fn device_bytes_per_operation(&self) -> f64 {
        self.per_operation(self.device_bytes.unwrap_or(0))
    }

    /// Failures and refusals per operation.
    pub fn failures_per_operation(&self) -> f64 {
        self.per_operation(self.errors.values().sum())
    }

    fn per_operation(&self, total: u64) -> f64 {
        total as f64 / self.operations().max(1) as f64
    }

    /// The figures as one line of JSON.
    pub fn json(&self) -> String {
        let errors: Vec<String> = self
            .errors
            .iter()
            .map(|(code, count)| format!("\"{code}\":{count}"))
            .collect();
        format!(
            concat!(
                "{{\"workload\":\"{}\",\"connections\":{},\"seconds\":{:.3},\"prepared\":{},",
                "\"operations\":{},\"rate\":{:.1},\"p50_ms\":{:.3},\"p99_ms\":{:.3},",
                "\"p999_ms\":{:.3},\"max_ms\":{:.3},\"errors\":{{{}}},\"cpu_us\":{},\"rss\":{},",
                "\"rss_peak\":{},\"disk_bytes\":{},\"written_bytes\":{},",
                "\"device_bytes\":{}}}"
            ),
            self.plan.workload,
            self.plan.connections,
            self.plan.duration.as_secs_f64(),
            self.plan.prepared,
            self.operations(),
            self.rate(),
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_ms(0.999),
            self.latency_us.max() as f64 / 1000.0,
            errors.join(","),
            self.usage.cpu_us,
            self.usage.rss,
            self.usage.rss_peak,
            self.usage.disk_bytes,
            self.usage.written_bytes,
            self.device_bytes
                .map_or_else(|| "null".to_owned(), |bytes| bytes.to_string()),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} x {}: {:.0} operations/s, p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms",
            self.plan.workload,
            self.plan.connections,
            self.rate(),
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_ms(0.999),
        )?;
        for (code, count) in &self.errors {
            writeln!(f, "  code {code}: {count} times")?;
        }
        if !self.plan.pids.is_empty() {
            const MIB: f64 = (1 << 20) as f64;
            writeln!(
                f,
                "  servers: {:.0} us CPU per operation, RSS {:.1} MiB (peak {:.1})",
                self.cpu_us_per_operation(),
                self.usage.rss as f64 / MIB,
                self.usage.rss_peak as f64 / MIB,
            )?;
        }
        if self.device_bytes.is_some() {
            writeln!(
                f,
                "  device: {:.0} bytes per operation",
                self.device_bytes_per_operation()
            )?;
        }
        Ok(())
    }
}
