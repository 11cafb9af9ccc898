//! The controller with a scripted performer, on a paused clock.

use std::sync::Mutex;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_test_support::bombs::outside;
use ostrakon_toolchain::component::EXPORTS;
use ostrakon_volumes::volume::ReadError;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::*;

/// The performer's script, given in the guest's settings: `schema`, `takes` (milliseconds that
/// compiling and promoting take), `fails` (the step that fails) and `times` (how often it fails
/// before it succeeds).
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<String>>,
    stored: Mutex<Option<u32>>,
    failures: Mutex<u32>,
}

#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
struct Broken {
    step: Step,
    transient: bool,
    source: std::fmt::Error,
}

impl Broken {
    fn new(step: Step, transient: bool) -> Self {
        let source = std::fmt::Error;
        Self {
            step,
            transient,
            source,
        }
    }
}

impl Failure for Broken {
    fn is_transient(&self) -> bool {
        self.transient
    }
}

fn setting<'a>(candidate: &'a Candidate, name: &str) -> &'a str {
    candidate
        .files
        .get(name)
        .map_or("", |value| std::str::from_utf8(value).unwrap())
}

impl Script {
    async fn step(&self, step: Step, candidate: &Candidate) -> Result<(), Broken> {
        self.call(format!("{step} {}", setting(candidate, "name")));
        if matches!(step, Step::Compile | Step::Promote) {
            let takes = setting(candidate, "takes").parse().unwrap_or(0);
            let mut unended = Unended(self, setting(candidate, "name"), true);
            sleep(Duration::from_millis(takes)).await;
            unended.2 = false;
        }
        if setting(candidate, "fails") != step.name() {
            return Ok(());
        }
        let Ok(times) = setting(candidate, "times").parse::<u32>() else {
            return Err(Broken::new(step, false));
        };
        let mut failures = self.failures.lock().unwrap();
        if *failures == times {
            return Ok(());
        }
        *failures += 1;
        Err(Broken::new(step, true))
    }

    fn call(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

struct Agreed;

/// Records that a step was abandoned.
struct Unended<'a>(&'a Script, &'a str, bool);

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        if self.2 {
            self.0.call(format!("given up {}", self.1));
        }
    }
}

impl Performer for Script {
    /// The digest of the component that was compiled.
    type Compiled = Digest;
    type Linked = ();
    type Checked = u32;
    type Agreed = Agreed;
    type Error = Broken;

    fn begins(&self, _: &Candidate) {}

    fn shows_live(&self, _: Digest) {}

    async fn compile(&self, candidate: &Candidate) -> Result<Digest, Broken> {
        self.step(Step::Compile, candidate).await?;
        Ok(candidate.component_digest)
    }

    async fn link(&self, candidate: &Candidate, compiled: Digest) -> Result<(), Broken> {
        assert_eq!(
            compiled, candidate.component_digest,
            "the compiled guest must be linked"
        );
        self.step(Step::Link, candidate).await
    }

    async fn check(&self, candidate: &Candidate, (): ()) -> Result<(u32, Description), Broken> {
        self.step(Step::Check, candidate).await?;
        let schema = setting(candidate, "schema").parse().unwrap_or(1);
        let name = setting(candidate, "name").to_owned();
        Ok((
            schema,
            Description {
                name,
                version: "1".into(),
                sharding: 1,
                schema,
            },
        ))
    }

    async fn rehearse(
        &self,
        candidate: &Candidate,
        schema: u32,
        _: Option<u32>,
    ) -> Result<u32, Broken> {
        if setting(candidate, "fails") == "rehearse" {
            return Err(Broken::new(Step::Rehearse, false));
        }
        Ok(schema)
    }

    async fn agree(&self, candidate: &Candidate, schema: u32) -> Result<(u32, Agreed), Broken> {
        if setting(candidate, "waits") == "forever" {
            self.call(format!("agree {}", setting(candidate, "name")));
            std::future::pending::<()>().await;
        }
        if setting(candidate, "fails") == "agree" {
            return Err(Broken::new(Step::Agree, false));
        }
        Ok((schema, Agreed))
    }

    fn stored_schema(&self) -> Option<u32> {
        *self.stored.lock().unwrap()
    }

    async fn promote(
        &self,
        candidate: &Candidate,
        schema: u32,
        Agreed: Agreed,
        migrate_from: Option<u32>,
    ) -> Result<u64, Broken> {
        if let Some(from) = migrate_from {
            self.call(format!("migrate from {from}"));
        }
        self.step(Step::Promote, candidate).await?;
        *self.stored.lock().unwrap() = Some(schema);
        Ok(setting(candidate, "number").parse().unwrap_or(1))
    }

    fn refused(&self, refusal: &Refusal) {
        self.call(format!("refused {}", refusal.step));
    }

    fn went_live(&self, took: Duration) {
        self.call(format!("live after {} ms", took.as_millis()));
    }
}

/// Content with a component that consists only of its exports. Its last byte distinguishes it from
/// others.
fn content(component: u8, settings: &[(&str, &str)]) -> Files {
    let wasm = [&outside(&EXPORTS)[..], &[0, 3, 1, b'n', component]].concat();
    let settings = settings.iter();
    let mut files: std::collections::BTreeMap<String, Bytes> = settings
        .map(|(name, value)| ((*name).into(), value.to_string().into()))
        .collect();
    files.insert("guest.wasm".into(), wasm.into());
    Files::new(files)
}

fn unreadable() -> Observation {
    Err(Arc::new(ReadError::Empty("volume".into())))
}

/// A running controller, and its inputs.
struct Rig {
    script: Arc<Script>,
    volume: watch::Sender<Observation>,
    status: watch::Receiver<Status>,
    shutdown: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn start(first: Observation, last_good: Option<Files>) -> Self {
        let has_served = last_good.is_some();
        Self::start_with(first, last_good, DefaultGuest::default(), has_served)
    }

    fn start_with(
        first: Observation,
        last_good: Option<Files>,
        default_guest: DefaultGuest,
        has_served: bool,
    ) -> Self {
        let script = Arc::new(Script::default());
        let (volume, observations) = watch::channel(first);
        let controller = Controller::new(Arc::clone(&script), observations, last_good)
            .with_default_guest(default_guest, has_served);
        let status = controller.status();
        let (shutdown, told) = oneshot::channel::<()>();
        let task = tokio::spawn(controller.run(async { told.await.unwrap_or_default() }));
        Self {
            script,
            volume,
            status,
            shutdown: Some(shutdown),
            task,
        }
    }

    fn show(&self, observation: Observation) {
        let _ = self.volume.send_replace(observation);
    }

    async fn until(&mut self, what: impl FnMut(&Status) -> bool) -> Status {
        let reached = self.status.wait_for(what);
        timeout(Duration::from_mins(10), reached)
            .await
            .expect("in time")
            .unwrap()
            .clone()
    }

    async fn live(&mut self, files: &Files) -> Status {
        let digest = files.digest();
        self.until(|status| {
            status
                .live
                .as_ref()
                .is_some_and(|live| live.digest == digest)
        })
        .await
    }

    async fn refused(&mut self, step: Step) -> Refused {
        let at = |status: &Status| {
            status
                .refused
                .as_ref()
                .is_some_and(|last| last.step == step)
        };
        self.until(at).await.refused.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn content_goes_live_step_by_step_and_is_timed() {
    let one = content(1, &[("name", "a"), ("takes", "20"), ("number", "7")]);
    let mut rig = Rig::start(Ok(one.clone()), None);
    let live = rig.live(&one).await.live.unwrap();
    assert_eq!(
        (live.generation, live.name.as_str(), live.schema),
        (7, "a", 1)
    );
    let calls = [
        "compile a",
        "link a",
        "check a",
        "promote a",
        "live after 40 ms",
    ];
    assert_eq!(rig.script.calls(), calls);
}

fn default_guest(files: &Files) -> DefaultGuest {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("default.wasm");
    std::fs::write(&path, &files.contents()["guest.wasm"]).unwrap();
    DefaultGuest::read(&path).unwrap()
}

/// Regression: an empty ConfigMap, or an optional one that was absent, kept a first start from
/// serving the default guest.
#[tokio::test(start_paused = true)]
async fn an_empty_volume_is_the_default_guest_alone() {
    let (default, newer) = (content(1, &[]), content(2, &[]));
    let mut rig = Rig::start_with(unreadable(), None, default_guest(&default), false);
    rig.live(&default).await;
    // A volume that had content and is empty again must be a mistake: its settings would be lost.
    let configured = content(1, &[("name", "a")]);
    rig.show(Ok(configured.clone()));
    rig.live(&configured).await;
    rig.show(unreadable());
    rig.refused(Step::Read).await;
    // After a restart, the default guest comes from a newer image.
    let restarted = Some(default.clone());
    let mut rig = Rig::start_with(unreadable(), restarted, default_guest(&newer), true);
    rig.live(&newer).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_volume_replaces_nothing_else_that_served() {
    let (default, other) = (content(1, &[]), content(2, &[("name", "a")]));
    let served = Some(other.clone());
    let mut rig = Rig::start_with(unreadable(), served, default_guest(&default), true);
    rig.refused(Step::Read).await;
    assert_eq!(
        rig.status.borrow().live.as_ref().unwrap().digest,
        other.digest()
    );
    // The content that served may be missing on the disk.
    let mut rig = Rig::start_with(unreadable(), None, default_guest(&default), true);
    rig.refused(Step::Read).await;
    assert_eq!(rig.status.borrow().live, None);
}

#[tokio::test(start_paused = true)]
async fn changed_settings_go_live_without_a_compile() {
    let one = content(1, &[("name", "a")]);
    let two = content(1, &[("name", "b")]);
    let mut rig = Rig::start(Ok(one.clone()), None);
    rig.live(&one).await;
    rig.script.calls();
    rig.show(Ok(two.clone()));
    rig.live(&two).await;
    assert_eq!(
        rig.script.calls(),
        ["link b", "check b", "promote b", "live after 0 ms"]
    );
}

#[tokio::test(start_paused = true)]
async fn each_step_that_fails_is_told_with_its_reason() {
    let good = content(1, &[]);
    let mut rig = Rig::start(Ok(good.clone()), None);
    rig.live(&good).await;
    for step in [Step::Compile, Step::Link, Step::Check, Step::Promote] {
        rig.show(Ok(content(2, &[("fails", step.name())])));
        let refused = rig.refused(step).await;
        let expected = format!("{step} failed: an error occurred when formatting an argument");
        assert_eq!(refused.reason, expected);
        assert_eq!(
            rig.status.borrow().live.as_ref().unwrap().digest,
            good.digest()
        );
        assert!(rig.script.calls().contains(&format!("refused {step}")));
    }
    rig.show(Ok(Files::new([("a".into(), Bytes::new())].into())));
    assert!(
        rig.refused(Step::Verify)
            .await
            .reason
            .contains("neither guest.wasm nor")
    );
    rig.show(unreadable());
    assert!(
        rig.refused(Step::Read)
            .await
            .reason
            .contains("holds no files")
    );
    rig.show(Ok(good.clone()));
    rig.until(|status| status.refused.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_through_no_fault_of_its_own_is_tried_again_by_itself() {
    let good = content(1, &[]);
    let mut rig = Rig::start(Ok(good.clone()), None);
    rig.live(&good).await;
    let unlucky = content(2, &[("fails", "promote"), ("times", "8")]);
    rig.show(Ok(unlucky.clone()));
    let begun = Instant::now();
    assert!(rig.refused(Step::Promote).await.will_retry);
    rig.live(&unlucky).await;
    // 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60
    assert_eq!(begun.elapsed().as_secs(), 183);
    assert_eq!(rig.status.borrow().refused, None);
    let calls = rig.script.calls();
    let refused = calls.iter().filter(|call| *call == "refused promote");
    assert_eq!(refused.count(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_failed_by_itself_or_was_superseded_is_not_tried_again() {
    let good = content(1, &[]);
    let mut rig = Rig::start(Ok(good.clone()), None);
    rig.live(&good).await;
    let unlucky = content(2, &[("fails", "promote"), ("times", "8")]);
    rig.show(Ok(unlucky));
    rig.refused(Step::Promote).await;
    let broken = content(3, &[("fails", "check")]);
    rig.show(Ok(broken));
    assert!(!rig.refused(Step::Check).await.will_retry);
    rig.script.calls();
    sleep(Duration::from_hours(1)).await;
    assert_eq!(rig.script.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn newer_content_ends_a_slow_compile_and_takes_over_at_once() {
    let slow = |component| content(component, &[("name", "slow"), ("takes", "5000")]);
    let next = content(3, &[("name", "next")]);
    let mut rig = Rig::start(Ok(slow(1)), None);
    let compiling = |component: u8| {
        let slow = slow(component).digest();
        move |status: &Status| {
            let candidate = status.candidate.as_ref();
            candidate.is_some_and(|at| at.step == Step::Compile && at.digest == slow)
        }
    };
    rig.until(compiling(1)).await;
    let since = tokio::time::Instant::now();
    rig.show(Ok(slow(2)));
    rig.until(compiling(2)).await;
    rig.show(Ok(next.clone()));
    rig.live(&next).await;
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "the compilation was not ended at once"
    );
    sleep(Duration::from_mins(1)).await;
    let calls = [
        "compile slow",
        "given up slow",
        "compile slow",
        "given up slow",
        "compile next",
        "link next",
        "check next",
        "promote next",
    ];
    assert_eq!(rig.script.calls()[..8], calls);
}

#[tokio::test(start_paused = true)]
async fn a_newer_schema_migrates_and_an_older_one_is_refused() {
    let one = content(1, &[("schema", "1")]);
    let two = content(2, &[("schema", "2")]);
    let mut rig = Rig::start(Ok(one.clone()), None);
    rig.live(&one).await;
    assert!(
        !rig.script
            .calls()
            .iter()
            .any(|call| call.starts_with("migrate"))
    );
    rig.show(Ok(two.clone()));
    rig.live(&two).await;
    assert!(rig.script.calls().contains(&"migrate from 1".to_owned()));
    rig.show(Ok(one));
    assert!(
        rig.refused(Step::Check)
            .await
            .reason
            .contains("older than the stored data's 2")
    );
    assert!(
        !rig.script
            .calls()
            .iter()
            .any(|call| call.starts_with("promote"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_with_an_unusable_volume_serves_what_was_last_good() {
    let good = content(1, &[("name", "good")]);
    let mut rig = Rig::start(unreadable(), Some(good.clone()));
    rig.refused(Step::Read).await;
    rig.live(&good).await;
    // Once it is live, the later refusal is still visible.
    assert_eq!(rig.refused(Step::Read).await.digest, None);

    let mut rig = Rig::start(Ok(good.clone()), Some(good.clone()));
    rig.live(&good).await;
    rig.until(|status| status.candidate.is_none()).await;
    let calls = rig.script.calls();
    assert_eq!(
        calls
            .iter()
            .filter(|call| call.starts_with("promote"))
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_drops_a_compile_but_awaits_a_promotion() {
    for (step, promoted) in [(Step::Compile, false), (Step::Promote, true)] {
        let slow = content(1, &[("takes", "5000")]);
        let mut rig = Rig::start(Ok(slow), None);
        rig.until(|status| matches!(&status.candidate, Some(at) if at.step == step))
            .await;
        rig.shutdown.take().unwrap().send(()).unwrap();
        (&mut rig.task).await.unwrap();
        assert_eq!(rig.status.borrow().live.is_some(), promoted, "{step}");
    }
}

#[test]
fn a_reason_has_all_sources_and_a_bounded_length() {
    let long = Broken::new(Step::Link, false);
    assert_eq!(
        reason(&long),
        "link failed: an error occurred when formatting an argument"
    );
    let error = std::io::Error::other("é".repeat(MAX_REASON_BYTES));
    assert_eq!(reason(&error).len(), MAX_REASON_BYTES);
}
