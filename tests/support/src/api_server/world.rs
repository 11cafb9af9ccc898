//! The state of the API server: the objects, their changes, and the permissions to read them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::events::{self, Events};
use super::question::Question;
use super::refusal::Refusal;
use super::{NAMESPACE, SET};

/// A permission of a Role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub group: &'static str,
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
    /// The only object allowed; `None` allows all.
    pub name: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

/// The state of the API server.
#[derive(Debug)]
pub struct World {
    /// The permissions of the Role.
    pub rules: Vec<Rule>,
    token: String,
    version: u64,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    /// By name.
    sets: BTreeMap<String, Value>,
    changes: Vec<Change>,
    uids: u64,
    events: Events,
    asked: Vec<Question>,
}

impl World {
    pub(super) fn new(replicas: i32, token: String) -> Self {
        let mut world = Self {
            rules: vec![
                Rule {
                    group: "apps",
                    resource: "statefulsets",
                    verbs: &["list", "watch"],
                    name: Some(SET),
                },
                Rule {
                    group: "events.k8s.io",
                    resource: "events",
                    verbs: &["create", "patch"],
                    name: None,
                },
            ],
            token,
            version: 100,
            forgotten: 0,
            sets: BTreeMap::new(),
            changes: Vec::new(),
            uids: 0,
            events: Events::default(),
            asked: Vec::new(),
        };
        world.create(SET, replicas);
        // A client that wrongly lists all StatefulSets would see this one.
        world.create("another", 7);
        world
    }

    pub(super) fn set_token(&mut self, token: String) {
        self.token = token;
    }

    /// Creates a StatefulSet.
    ///
    /// # Panics
    /// When it exists already.
    pub fn create(&mut self, name: &str, replicas: i32) {
        assert!(!self.sets.contains_key(name), "there is one");
        self.uids += 1;
        let set = json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": format!("00000000-0000-0000-0000-{:012}", self.uids),
                "generation": 1,
                "creationTimestamp": "2026-11-21T08:00:00Z",
                "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
            },
            "spec": {
                "replicas": replicas,
                "serviceName": name,
                "podManagementPolicy": "OrderedReady",
                "selector": { "matchLabels": { "app": name } },
                "template": { "spec": { "containers": [{ "name": "ostrakon" }] } },
            },
            "status": { "replicas": 0, "availableReplicas": 0 },
        });
        self.note("ADDED", set);
    }

    /// Deletes a StatefulSet.
    ///
    /// # Panics
    /// When it does not exist.
    pub fn delete(&mut self, name: &str) {
        let set = self.sets.remove(name).expect("the StatefulSet exists");
        self.note("DELETED", set);
    }

    /// Begins to delete a StatefulSet: it disappears when its Pods have gone.
    ///
    /// # Panics
    /// When it does not exist.
    pub fn begin_to_delete(&mut self, name: &str) {
        let mut set = self.sets[name].clone();
        set["metadata"]["deletionTimestamp"] = json!("2026-11-21T09:00:00Z");
        self.note("MODIFIED", set);
    }

    pub(super) fn scale(&mut self, replicas: i32) {
        let mut set = self.sets[SET].clone();
        set["spec"]["replicas"] = json!(replicas);
        self.note("MODIFIED", set);
    }

    /// Counts versions up, as by changes to other objects.
    pub fn pass(&mut self, versions: u64) {
        self.version += versions;
    }

    /// Goes back to a version, as when etcd is restored from an older copy.
    ///
    /// # Panics
    /// When the version is not older.
    pub fn restore(&mut self, version: u64) {
        assert!(version < self.version, "it is older");
        self.version = version;
        self.changes.retain(|change| change.version <= version);
    }

    /// Forgets all changes so far, as a real API server does after some minutes.
    pub fn forget(&mut self) {
        self.forgotten = self.version;
        self.changes.clear();
    }

    fn note(&mut self, kind: &'static str, mut set: Value) {
        self.version += 1;
        let version = self.version;
        set["metadata"]["resourceVersion"] = json!(version.to_string());
        if kind != "DELETED" {
            let name = set["metadata"]["name"]
                .as_str()
                .expect("the StatefulSet has a name");
            self.sets.insert(name.to_owned(), set.clone());
        }
        self.changes.push(Change {
            version,
            kind,
            object: set,
        });
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &Value> {
        self.events.all()
    }

    /// Forgets the Events, as a real API server does after an hour.
    pub fn forget_events(&mut self) {
        self.events = Events::default();
    }

    pub(super) fn asked(&self) -> &[Question] {
        &self.asked
    }

    /// Whether the holder of this token may make this request.
    pub(super) fn admit(
        &mut self,
        question: &Question,
        authorization: Option<&str>,
    ) -> Result<(), Refusal> {
        self.asked.push(question.clone());
        let user = match authorization {
            None => "system:anonymous",
            Some(shown) if shown == format!("Bearer {}", self.token) => {
                "system:serviceaccount:shop:shard"
            }
            Some(_) => return Err(Refusal::new(401, "Unauthorized")),
        };
        let Question {
            verb,
            group,
            resource,
            ..
        } = *question;
        let allows = |rule: &Rule| {
            (rule.group, rule.resource) == (group, resource)
                && rule.verbs.contains(&verb)
                && rule
                    .name
                    .is_none_or(|name| question.name.as_deref() == Some(name))
        };
        if user != "system:anonymous" && self.rules.iter().any(allows) {
            return Ok(());
        }
        let name = question.name.as_deref();
        let name = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let message = format!(
            "{resource}.{group}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" in the namespace \"{NAMESPACE}\""
        );
        Err(Refusal::new(403, message))
    }

    /// The StatefulSets that a request selects, as a list.
    pub(super) fn list(&self, question: &Question) -> Value {
        let wanted = |name: &str| question.name.as_deref().is_none_or(|wanted| wanted == name);
        let sets = self.sets.iter().filter(|(name, _)| wanted(name));
        // In a list, the items do not name their kind.
        let items = sets.map(|(_, set)| {
            let mut set = set.clone();
            let fields = set.as_object_mut().expect("the StatefulSet is an object");
            fields.remove("kind");
            fields.remove("apiVersion");
            set
        });
        json!({
            "kind": "StatefulSetList",
            "apiVersion": "apps/v1",
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items.collect::<Vec<_>>(),
        })
    }

    /// The changes since a version; `None` if they are forgotten.
    pub(super) fn since(&self, version: u64, name: Option<&str>) -> Option<Vec<Change>> {
        let is_wanted = |change: &&Change| {
            let own = change.object["metadata"]["name"].as_str();
            change.version > version && name.is_none_or(|name| own == Some(name))
        };
        let changes = self.changes.iter().filter(is_wanted);
        (version >= self.forgotten).then(|| changes.cloned().collect())
    }

    /// Creates an Event, and returns it.
    pub(super) fn post(&mut self, event: Value) -> Result<Value, Refusal> {
        self.version += 1;
        events::valid(&event)?;
        self.events.add(event)
    }

    /// Changes an Event, and returns it.
    pub(super) fn patch(&mut self, name: &str, patch: &Value) -> Result<Value, Refusal> {
        self.version += 1;
        self.events.patch(name, patch)
    }
}
