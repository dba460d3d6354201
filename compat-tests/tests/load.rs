//! The load tool gives sensible figures on both kinds of servers.

use std::time::Duration;

use compat_tests::load::{self, Plan, Workload};
use compat_tests::servers::{Kind, Server};

fn every_workload_runs(kind: Kind) {
    const BUSY: i32 = 5;
    if !kind.available_or_skip() {
        return;
    }
    let server = Server::start_single(kind).expect("starts");
    for (workload, prepared) in Workload::ALL
        .into_iter()
        .zip([true, false].into_iter().cycle())
    {
        let addresses = vec![server.address().to_owned()];
        let plan = Plan {
            warm_up: Duration::ZERO,
            prepared,
            pids: vec![server.pid().expect("it runs")],
            ..Plan::new(addresses, workload, 2, Duration::from_millis(500))
        };
        let report = load::run(&plan).expect("no failure of the load itself");
        assert!(report.operations() > 0, "{workload}: {report}");
        assert!(
            report.errors.keys().all(|&code| code == BUSY),
            "{workload}: {report}"
        );
        assert!(report.latency_ms(0.5) <= report.latency_ms(0.99));
        assert!(report.usage.rss > 0, "the server's memory is seen");
        let json = report.json();
        assert!(json.starts_with(&format!("{{\"workload\":\"{workload}\",\"connections\":2,")));
        assert!(json.ends_with('}'), "{json}");
    }
}

#[test]
fn every_workload_runs_on_c() {
    every_workload_runs(Kind::C);
}

#[test]
fn every_workload_runs_on_ours() {
    every_workload_runs(Kind::Ours);
}
