//! Tests with an API server that is as strict as the real one, and can fail like it.

mod events;
mod following;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostrakon_test_support::PATIENCE;
use ostrakon_test_support::api_server::{ApiServer, SET};
use tokio::runtime::Runtime;

use super::*;

/// Short, so that tests need not wait for long.
const TIMING: Timing = Timing {
    answer: Duration::from_millis(500),
    watch: Duration::from_secs(1),
    beyond: Duration::from_millis(500),
    first_wait: Duration::from_millis(10),
    longest_wait: Duration::from_millis(40),
};

/// A Pod of the StatefulSet, and its API server.
struct Pod {
    server: ApiServer,
    kubernetes: Kubernetes,
    runtime: Runtime,
}

impl Pod {
    fn new(replicas: i32) -> Self {
        let server = ApiServer::start(replicas);
        let environment = server.environment();
        let value = |name: &str| {
            let found = environment.iter().find(|(own, _)| own == name);
            found.map(|(_, value)| value.clone())
        };
        let identity = PodIdentity::find(Given {
            host: value("KUBERNETES_SERVICE_HOST"),
            port: value("KUBERNETES_SERVICE_PORT"),
            account: server.account(),
            pod: format!("{SET}-0"),
            pod_uid: Some("11111111-0000-0000-0000-000000000000".to_owned()),
            ..Given::default()
        });
        let metrics = Arc::new(Metrics::new("0"));
        Self {
            server,
            kubernetes: Kubernetes::with(identity.unwrap(), TIMING, metrics),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// A Pod that follows its StatefulSet of three, and has received the number.
    fn following() -> Self {
        let pod = Self::new(3);
        pod.follow();
        pod.hears(Replicas::Are(3));
        pod
    }

    fn follow(&self) {
        let kubernetes = self.kubernetes.clone();
        self.runtime.spawn(async move { kubernetes.follow().await });
    }

    fn hears(&self, expected: Replicas) {
        let mut replicas = self.kubernetes.replicas();
        let heard = replicas.wait_for(|replicas| *replicas == expected);
        let heard = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, heard).await });
        assert!(
            heard.is_ok(),
            "{expected:?} is not reported: {:?}",
            self.kubernetes.status()
        );
    }

    /// Waits until a problem that contains `part` is reported, and returns it.
    fn problem(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.kubernetes.status();
            if let Some(problem) = &status.problem
                && problem.contains(part)
            {
                return problem.clone();
            }
            assert!(
                Instant::now() < deadline,
                "{part} is not in the status: {status:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_well(&self) {
        self.server.wait_for("no problem", |_| {
            self.kubernetes.status().problem.is_none().then_some(())
        });
    }

    /// How often the API server received a request of this kind.
    fn asked(&self, verb: &str) -> usize {
        let asked = self.server.asked();
        asked
            .iter()
            .filter(|question| question.verb == verb)
            .count()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.kubernetes.0.metrics.render();
        let value = text.lines().find_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == name || series.strip_prefix(name)?.starts_with('{');
            is_it.then_some(value)
        });
        value.map(|value| value.parse().unwrap())
    }
}
