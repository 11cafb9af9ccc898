//! Single cases of the machine, and a search through all reachable states.

use std::collections::{HashMap, HashSet, VecDeque};

use ostrakon_test_support::pages::rows;

use super::*;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// Applies the events, and returns the state and the effects of the last one.
fn after(events: &[Event]) -> (State, Vec<Effect>) {
    let mut last = (State::default(), Vec::new());
    for event in events {
        last = last.0.apply(event.clone(), 7);
    }
    last
}

fn seen(name: &str) -> Event {
    Event::Observed(digest(name))
}

fn verified(component: &str) -> Event {
    Event::Verified {
        component: digest(component),
    }
}

fn checked(schema: u32, stored: Option<u32>) -> Event {
    Event::Checked { schema, stored }
}

/// Brings content with this component live, with schema 1.
fn to_live(name: &str, component: &str) -> Vec<Event> {
    vec![
        seen(name),
        verified(component),
        Event::Compiled,
        Event::Linked,
        checked(1, Some(1)),
        Event::Rehearsed,
        Event::Agreed,
        Event::Promoted { generation: 1 },
    ]
}

fn failed() -> Event {
    failed_and(false)
}

fn failed_and(transient: bool) -> Event {
    let reason = "no".into();
    Event::Failed { reason, transient }
}

#[track_caller]
fn leads_to(events: &[Event], expected: &[Effect]) -> State {
    let (state, effects) = after(events);
    assert_eq!(effects, expected);
    state
}

#[test]
fn new_content_passes_each_step_and_goes_live() {
    let events = to_live("a", "c");
    let actions = [
        Action::Verify(digest("a")),
        Action::Compile,
        Action::Link,
        Action::Check,
        Action::Rehearse { migrate_from: None },
        Action::Agree { migrate_from: None },
        Action::Promote { migrate_from: None },
    ];
    for (index, action) in actions.into_iter().enumerate() {
        leads_to(&events[..=index], &[Effect::Begin(action)]);
    }
    let live = Live {
        generation: 1,
        digest: digest("a"),
        component: digest("c"),
    };
    let state = leads_to(&events, &[Effect::Live(live.clone())]);
    assert_eq!(state.live(), Some(&live));
    assert_eq!(state.in_progress(), None);
}

#[test]
fn identical_content_is_no_change() {
    let events = [to_live("a", "c"), vec![seen("a")]].concat();
    leads_to(&events, &[]);
}

#[test]
fn changed_settings_are_a_swap_without_a_compile() {
    let events = [to_live("a", "c"), vec![seen("b"), verified("c")]].concat();
    leads_to(&events, &[Effect::Begin(Action::Link)]);
}

#[test]
fn a_failed_step_is_a_refusal_and_the_live_one_goes_on() {
    let events = [to_live("a", "c"), vec![seen("b"), verified("d"), failed()]].concat();
    let refusal = Refusal {
        digest: Some(digest("b")),
        step: Step::Compile,
        reason: "no".into(),
        at: 7,
        transient: false,
    };
    let state = leads_to(&events, &[Effect::Refused(refusal.clone())]);
    assert_eq!(state.refusal(), Some(&refusal));
    assert_eq!(state.live().unwrap().digest, digest("a"));
}

#[test]
fn refused_content_is_not_tried_again_but_new_content_is() {
    leads_to(&[seen("a"), failed(), seen("a")], &[]);
    leads_to(
        &[seen("a"), failed(), seen("b")],
        &[Effect::Begin(Action::Verify(digest("b")))],
    );
}

#[test]
fn refused_content_is_tried_again_if_it_is_to_be() {
    let verify = [Effect::Begin(Action::Verify(digest("a")))];
    let again = Event::Again(digest("a"));
    leads_to(&[seen("a"), failed(), again.clone()], &verify);
    leads_to(std::slice::from_ref(&again), &verify);
    leads_to(&[seen("a"), again.clone()], &[]);
    leads_to(&[to_live("a", "c"), vec![again]].concat(), &[]);
}

#[test]
fn content_that_failed_for_a_passing_reason_is_tried_again_in_time() {
    let again = [Effect::Begin(Action::Verify(digest("a")))];
    let state = leads_to(&[seen("a"), failed_and(true), Event::Retry], &again);
    assert!(
        state.refusal().is_some(),
        "the refusal must stay until newer content is known"
    );
    leads_to(&[seen("a"), failed(), Event::Retry], &[]);
    leads_to(&[seen("a"), failed_and(true), seen("b"), Event::Retry], &[]);
}

#[test]
fn going_back_to_the_live_content_clears_the_refusal() {
    let events = [to_live("a", "c"), vec![seen("b"), failed(), seen("a")]].concat();
    let state = leads_to(&events, &[]);
    assert_eq!(state.refusal(), None);
}

#[test]
fn an_unreadable_volume_is_a_refusal_until_it_is_back() {
    let gone = [to_live("a", "c"), vec![Event::Unreadable("gone".into())]].concat();
    let state = after(&gone).0;
    assert_eq!(state.refusal().unwrap().step, Step::Read);
    assert!(state.live().is_some());
    let back = leads_to(&[gone, vec![seen("a")]].concat(), &[]);
    assert_eq!(back.refusal(), None);
}

#[test]
fn newer_content_takes_over_after_the_step_under_way() {
    let linking = [seen("a"), verified("c"), Event::Compiled];
    let then = |events: &[Event]| [&linking, events].concat();
    leads_to(&then(&[seen("b")]), &[]);
    let verify = Effect::Begin(Action::Verify(digest("b")));
    leads_to(&then(&[seen("b"), Event::Linked]), &[verify]);
    let check = Effect::Begin(Action::Check);
    leads_to(&then(&[seen("b"), seen("a"), Event::Linked]), &[check]);
}

#[test]
fn newer_content_ends_a_compile_and_a_volume_that_cannot_be_read_does_not() {
    let compiling = [seen("a"), verified("c")];
    let then = |events: &[Event]| [&compiling, events].concat();
    let verify = Effect::Begin(Action::Verify(digest("b")));
    leads_to(&then(&[seen("b")]), &[Effect::Cancel, verify]);
    leads_to(&then(&[seen("a")]), &[]);
    let gone = Event::Unreadable("gone".into());
    leads_to(&then(&[gone.clone(), seen("a")]), &[]);
    let state = after(&then(&[gone, Event::Compiled])).0;
    assert_eq!(state.refusal().unwrap().step, Step::Read);

    // The volume shows the live content again: there is nothing to do.
    let events = [to_live("a", "c"), vec![seen("b"), verified("d"), seen("a")]].concat();
    let state = leads_to(&events, &[Effect::Cancel]);
    assert_eq!((state.in_progress(), state.refusal()), (None, None));
}

#[test]
fn a_promotion_counts_although_newer_content_waits() {
    let mut events = to_live("a", "c");
    events.insert(7, seen("b"));
    let live = Live {
        generation: 1,
        digest: digest("a"),
        component: digest("c"),
    };
    leads_to(
        &events,
        &[
            Effect::Live(live),
            Effect::Begin(Action::Verify(digest("b"))),
        ],
    );
}

#[test]
fn an_older_schema_is_refused_and_a_newer_one_migrates() {
    let until_checked = [seen("a"), verified("c"), Event::Compiled, Event::Linked];
    let with = |event| [&until_checked[..], &[event]].concat();

    let state = after(&with(checked(1, Some(2)))).0;
    let refusal = state.refusal().unwrap();
    assert_eq!(refusal.step, Step::Check);
    assert!(
        refusal
            .reason
            .contains("schema is 1, older than the stored data's 2")
    );

    let agreed = |checked: Event| {
        let then = vec![Event::Rehearsed, Event::Agreed];
        [with(checked), then].concat()
    };
    let migrate = Action::Promote {
        migrate_from: Some(2),
    };
    let state = leads_to(&agreed(checked(3, Some(2))), &[Effect::Begin(migrate)]);
    assert_eq!(state.in_progress(), Some((digest("a"), Step::Migrate)));

    let promote = Action::Promote { migrate_from: None };
    leads_to(&agreed(checked(3, None)), &[Effect::Begin(promote)]);
}

/// The machine, with the history that the properties need.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    state: State,
    /// The action in progress, as its performer knows it.
    running: Option<Action>,
    /// The actions that succeeded for the current candidate.
    passed: Vec<Action>,
    /// The newest observation; `None` if unreadable.
    newest: Option<&'static str>,
}

/// Three contents, two of them with the same component.
const CONTENTS: [(&str, &str); 3] = [("a", "x"), ("b", "x"), ("c", "y")];

fn component_of(content: Digest) -> Digest {
    let found = CONTENTS.iter().find(|(name, _)| digest(name) == content);
    digest(found.expect("only these contents are observed").1)
}

impl World {
    /// The worlds after each event that can happen next.
    fn successors(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        for (name, _) in CONTENTS {
            worlds.push(
                Self {
                    newest: Some(name),
                    ..self.clone()
                }
                .step(seen(name)),
            );
            let again = Event::Again(digest(name));
            let shown = Self {
                newest: Some(name),
                ..self.clone()
            };
            worlds.push(shown.step(again));
        }
        let unreadable = Event::Unreadable("gone".into());
        // Before the first observation there is nothing to retry.
        if self.state != State::default() {
            worlds.push(self.clone().step(Event::Retry));
        }
        worlds.push(
            Self {
                newest: None,
                ..self.clone()
            }
            .step(unreadable),
        );
        if let Some(action) = self.running {
            worlds.push(self.ended(action, failed()));
            worlds.push(self.ended(action, failed_and(true)));
            worlds.extend(
                Self::good_ends(action)
                    .into_iter()
                    .map(|end| self.ended(action, end)),
            );
        }
        worlds
    }

    fn good_ends(action: Action) -> Vec<Event> {
        match action {
            Action::Verify(content) => {
                vec![Event::Verified {
                    component: component_of(content),
                }]
            }
            Action::Compile => vec![Event::Compiled],
            Action::Link => vec![Event::Linked],
            Action::Check => {
                let schemas = [(1, None), (1, Some(2)), (2, Some(2)), (3, Some(2))];
                schemas
                    .into_iter()
                    .map(|(schema, stored)| checked(schema, stored))
                    .collect()
            }
            Action::Rehearse { .. } => vec![Event::Rehearsed],
            Action::Agree { .. } => vec![Event::Agreed],
            Action::Promote { .. } => vec![Event::Promoted { generation: 1 }],
        }
    }

    fn ended(&self, action: Action, event: Event) -> Self {
        let mut world = self.clone();
        world.running = None;
        world.passed.push(action);
        world.step(event)
    }

    fn step(mut self, event: Event) -> Self {
        let before = self.state.clone();
        let (state, effects) = self.state.clone().apply(event, 0);
        for effect in effects {
            match effect {
                Effect::Begin(action) => {
                    assert_eq!(self.running, None, "one action at a time");
                    if matches!(action, Action::Verify(_)) {
                        self.passed.clear();
                    }
                    self.running = Some(action);
                }
                Effect::Cancel => {
                    assert!(
                        matches!(
                            self.running,
                            Some(Action::Compile | Action::Rehearse { .. } | Action::Agree { .. })
                        ),
                        "only a compile, a rehearsal and a wait are ended"
                    );
                    self.running = None;
                    self.passed.clear();
                }
                Effect::Refused(_) => {}
                Effect::Live(live) => {
                    let compiled = before
                        .live
                        .as_ref()
                        .is_some_and(|old| old.component == live.component);
                    let compile = if compiled {
                        &[][..]
                    } else {
                        &[Action::Compile]
                    };
                    let expected = [
                        &[Action::Verify(live.digest)],
                        compile,
                        &[Action::Link, Action::Check],
                    ]
                    .concat();
                    let [steps @ .., rehearsed, agreed, promoted] = &self.passed[..] else {
                        panic!("{:?}", self.passed);
                    };
                    assert_eq!(
                        steps, expected,
                        "a generation must pass each step before it goes live"
                    );
                    assert!(matches!(rehearsed, Action::Rehearse { .. }));
                    assert!(matches!(agreed, Action::Agree { .. }));
                    assert!(matches!(promoted, Action::Promote { .. }));
                    assert_eq!(live.component, component_of(live.digest));
                }
            }
        }
        if before.live != state.live {
            assert!(matches!(
                before.in_progress(),
                Some((_, Step::Promote | Step::Migrate))
            ));
        }
        assert_eq!(self.running, state.work.as_ref().map(|work| work.action));
        self.state = state;
        if self.running.is_none() {
            self.passed.clear();
            self.is_settled();
        }
        self
    }

    /// Without an action in progress, the newest observation is live or refused.
    fn is_settled(&self) {
        let State {
            live,
            refusal,
            next,
            ..
        } = &self.state;
        assert_eq!(*next, None, "nothing may wait without a reason");
        match self.newest.map(digest) {
            None => assert_eq!(refusal.as_ref().unwrap().step, Step::Read),
            Some(newest) if live.as_ref().is_some_and(|live| live.digest == newest) => {
                assert_eq!(*refusal, None, "the live content must not be refused");
            }
            Some(newest) => assert_eq!(refusal.as_ref().unwrap().digest, Some(newest)),
        }
    }
}

#[test]
fn every_reachable_state_keeps_the_promises() {
    let start = World {
        state: State::default(),
        running: None,
        passed: Vec::new(),
        newest: None,
    };
    let mut found = HashSet::from([start.clone()]);
    let mut waiting = VecDeque::from([start]);
    let mut transitions = 0;
    while let Some(world) = waiting.pop_front() {
        for next in world.successors() {
            transitions += 1;
            if found.insert(next.clone()) {
                waiting.push_back(next);
            }
        }
    }
    never_stuck(&found);
    // The search is complete: it ended because nothing new was found.
    assert_eq!((found.len(), transitions), (8693, 98_607));
}

/// From each state, once observations stop, the actions end within a few steps.
fn never_stuck(found: &HashSet<World>) {
    let mut known = HashMap::new();
    for world in found {
        assert!(
            steps_to_rest(world, &mut known) <= 15,
            "there must be no more steps than for two candidates"
        );
    }
}

fn steps_to_rest(world: &World, known: &mut HashMap<World, usize>) -> usize {
    let Some(action) = world.running else {
        return 0;
    };
    if let Some(&steps) = known.get(world) {
        return steps;
    }
    let mut ends = World::good_ends(action);
    ends.push(failed());
    let steps = ends
        .into_iter()
        .map(|end| steps_to_rest(&world.ended(action, end), known));
    let most = 1 + steps.max().expect("an action has an end");
    known.insert(world.clone(), most);
    most
}

#[test]
fn the_authors_guide_and_the_reference_have_exactly_these_steps() {
    let steps: Vec<_> = Step::ALL.iter().map(|step| format!("`{step}`")).collect();
    let guide = include_str!("../../../../../guest/README.md");
    let rows = rows(guide, "| step |");
    let shown: Vec<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(shown, steps, "guest/README.md");
    let reference = include_str!("../../../../README.md");
    let row = reference
        .lines()
        .find(|line| line.starts_with("| `ostrakon_swap_refusals_total` |"));
    let row = row.expect("host/README.md has the metric");
    assert!(row.contains(&steps.join(", ")), "{row}");
}
