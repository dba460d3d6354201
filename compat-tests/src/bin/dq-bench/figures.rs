//! What was measured: a row for each load, in it the rounds of each server.

use std::collections::BTreeMap;
use std::fmt::Write;

use compat_tests::load::Report;

/// One row: where the data lived, what was done, by how many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Load {
    pub(crate) place: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) connections: usize,
}

/// One run of a load on a server.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Processor time of all servers per operation.
    pub(crate) cpu_us: f64,
    /// Bytes that the block device wrote per operation, whoever asked for it.
    pub(crate) device_bytes: f64,
    /// Bytes that the kernel charged to the servers' account per operation (`/proc/PID/io`).
    pub(crate) charged_bytes: f64,
    pub(crate) rss_mib: f64,
    pub(crate) rss_peak_mib: f64,
    pub(crate) refusals: f64,
}

impl From<&Report> for Figures {
    fn from(report: &Report) -> Figures {
        const MIB: f64 = (1 << 20) as f64;
        let operations = report.operations().max(1) as f64;
        Figures {
            rate: report.rate(),
            p50_ms: report.latency_ms(0.5),
            p99_ms: report.latency_ms(0.99),
            p999_ms: report.latency_ms(0.999),
            max_ms: report.latency_us.max() as f64 / 1000.0,
            cpu_us: report.cpu_us_per_operation(),
            device_bytes: report.device_bytes_per_operation(),
            charged_bytes: report.usage.disk_bytes as f64 / operations,
            rss_mib: report.usage.rss as f64 / MIB,
            rss_peak_mib: report.usage.rss_peak as f64 / MIB,
            refusals: report.failures_per_operation(),
        }
    }
}

/// A column's name and where its figure comes from.
type Column = (&'static str, fn(&Figures) -> f64);

/// The columns of the CSV after those that name the run.
const COLUMNS: [Column; 11] = [
    ("operations_per_s", |f| f.rate),
    ("p50_ms", |f| f.p50_ms),
    ("p99_ms", |f| f.p99_ms),
    ("p999_ms", |f| f.p999_ms),
    ("max_ms", |f| f.max_ms),
    ("server_cpu_us_per_op", |f| f.cpu_us),
    ("device_bytes_per_op", |f| f.device_bytes),
    ("charged_bytes_per_op", |f| f.charged_bytes),
    ("rss_mib", |f| f.rss_mib),
    ("rss_peak_mib", |f| f.rss_peak_mib),
    ("refusals_per_op", |f| f.refusals),
];

/// All rows, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    order: Vec<Load>,
    runs: BTreeMap<(Load, &'static str), Vec<Figures>>,
}

impl Table {
    /// Adds a round.
    pub(crate) fn add(&mut self, load: Load, server: &'static str, figures: Figures) {
        if !self.order.contains(&load) {
            self.order.push(load);
        }
        self.runs.entry((load, server)).or_default().push(figures);
    }

    /// The rows.
    pub(crate) fn loads(&self) -> &[Load] {
        &self.order
    }

    /// A figure's median over the rounds; `None` if this server was not measured.
    pub(crate) fn median(
        &self,
        load: Load,
        server: &'static str,
        figure: impl Fn(&Figures) -> f64,
    ) -> Option<f64> {
        self.runs
            .get(&(load, server))
            .map(|rounds| median(rounds.iter().map(figure).collect()))
    }

    /// How much faster `server` is than `base`: lowest, median and highest of the rounds' ratios.
    fn ratios(&self, load: Load, base: &'static str, server: &'static str) -> Option<[f64; 3]> {
        let c = self.runs.get(&(load, base))?;
        let ours = self.runs.get(&(load, server))?;
        let mut ratios: Vec<f64> = (c.iter().zip(ours))
            .map(|(c, ours)| ours.rate / c.rate.max(f64::MIN_POSITIVE))
            .collect();
        ratios.sort_by(f64::total_cmp);
        Some([*ratios.first()?, ratios[ratios.len() / 2], *ratios.last()?])
    }

    /// A Markdown table with a line for each row and each server of ours beside C.
    pub(crate) fn markdown(&self, caption: &str) -> String {
        let mut text = format!(
            "{caption}\n\n| data on | workload | connections | C ops/s (p50 / p99) | dq ops/s (p50 / p99) \
             | ratio (rounds) | CPU µs per op, C / dq | KiB written per op, C / dq |\n\
             |---|---|---:|---|---|---|---|---|\n"
        );
        for &load in &self.order {
            for (base, server, remark) in [
                ("C", "dq", ""),
                ("C", "dq lease", " (lease)"),
                ("C", "dq queue", " (queue)"),
                ("C nodelay", "dq", " (C with TCP_NODELAY)"),
            ] {
                let is_there = |server| self.runs.contains_key(&(load, server));
                // Without C the figures of ours stand alone.
                if is_there(server) && (base == "C" || is_there(base)) {
                    self.markdown_row(&mut text, load, (base, server), remark);
                }
            }
        }
        text
    }

    fn markdown_row(
        &self,
        text: &mut String,
        load: Load,
        (base, server): (&'static str, &'static str),
        remark: &str,
    ) {
        let speed = |server| {
            let median = |figure: fn(&Figures) -> f64| self.median(load, server, figure);
            match (
                median(|f| f.rate),
                median(|f| f.p50_ms),
                median(|f| f.p99_ms),
            ) {
                (Some(rate), Some(p50), Some(p99)) => {
                    format!("{} ({} / {})", grouped(rate), short(p50), short(p99))
                }
                _ => "–".to_owned(),
            }
        };
        let pair = |figure: fn(&Figures) -> f64, unit: f64| {
            let one = |server| {
                self.median(load, server, figure)
                    .map_or_else(|| "–".to_owned(), |value| short(value / unit))
            };
            format!("{} / {}", one(base), one(server))
        };
        let ratio = self
            .ratios(load, base, server)
            .map_or_else(String::new, |[low, middle, high]| {
                format!("{} ({}–{})", short(middle), short(low), short(high))
            });
        let written = match load.place {
            "memory" => String::new(),
            _ => pair(|f| f.device_bytes, 1024.0),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {}{remark} | {} | {} | {} | {ratio} | {} | {written} |",
            load.place,
            load.workload,
            load.connections,
            speed(base),
            speed(server),
            pair(|f| f.cpu_us, 1.0),
        );
    }

    /// Every round of every run, for machines.
    pub(crate) fn csv(&self) -> String {
        let mut text = "data_on,workload,connections,server,round".to_owned();
        for (name, _) in COLUMNS {
            text.push(',');
            text.push_str(name);
        }
        text.push('\n');
        for load in &self.order {
            for (_, server) in self.runs.keys().filter(|(l, _)| l == load) {
                for (round, figures) in self.runs[&(*load, *server)].iter().enumerate() {
                    let _ = write!(
                        text,
                        "{},{},{},{server},{}",
                        load.place,
                        load.workload,
                        load.connections,
                        round + 1
                    );
                    for (_, figure) in COLUMNS {
                        let _ = write!(text, ",{:.3}", figure(figures));
                    }
                    text.push('\n');
                }
            }
        }
        text
    }
}

/// The middle of some figures; 0 of none.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// A figure with two digits that mean something.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A whole number with a comma between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        place: "disk",
        workload: "insert",
        connections: 64,
    };

    fn rate(rate: f64) -> Figures {
        Figures {
            rate,
            ..Figures::default()
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_the_ratios_of_neighbouring_runs() {
        let mut table = Table::default();
        for (c, ours) in [(100.0, 200.0), (1000.0, 4000.0), (10.0, 30.0)] {
            table.add(LOAD, "C", rate(c));
            table.add(LOAD, "dq", rate(ours));
        }
        assert_eq!(table.ratios(LOAD, "C", "dq"), Some([2.0, 3.0, 4.0]));
        assert_eq!(table.ratios(LOAD, "C", "dq lease"), None);
        assert_eq!(table.median(LOAD, "C", |f| f.rate), Some(100.0));
        let text = table.markdown("caption");
        assert!(text.starts_with("caption\n\n| data on |"), "{text}");
        assert!(text.contains("| 3.0 (2.0–4.0) |"), "{text}");
    }

    #[test]
    fn c_with_nodelay_is_a_row_of_its_own() {
        let mut table = Table::default();
        for (server, figure) in [("C", 100.0), ("C nodelay", 400.0), ("dq", 800.0)] {
            table.add(LOAD, server, rate(figure));
        }
        let text = table.markdown("caption");
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("insert"))
            .collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[1].contains("(C with TCP_NODELAY)"), "{text}");
        assert!(
            rows[1].contains("| 400 (") && rows[1].contains("| 2.0 ("),
            "{text}"
        );
    }

    #[test]
    fn the_csv_has_a_line_for_each_round_and_as_many_fields_as_names() {
        let mut table = Table::default();
        table.add(LOAD, "C", rate(1.0));
        table.add(LOAD, "dq", rate(2.0));
        table.add(LOAD, "dq", rate(3.0));
        let csv = table.csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 4, "{csv}");
        assert!(lines[3].starts_with("disk,insert,64,dq,2,3.000,"), "{csv}");
        let fields = |line: &str| line.split(',').count();
        assert!(lines.iter().all(|line| fields(line) == fields(lines[0])));
    }

    #[test]
    fn numbers_are_short_and_thousands_are_apart() {
        assert_eq!(grouped(1234567.4), "1,234,567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(
            [short(12.3), short(1.26), short(0.123), short(0.0123)],
            ["12", "1.3", "0.12", "0.012"]
        );
        assert_eq!(median(vec![]), 0.0);
    }
}
