//! What is sent, and what isn't after the term: against an API server that knows of nothing, on a paused clock.

use std::sync::Mutex;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use kube::runtime::events::Reporter;
use kubevirt_types::VirtualMachine;
use serde_json::json;
use tokio::time::{Instant, advance};

use super::*;

const TERM: Duration = Duration::from_secs(10);

/// What was sent, in order. Time passes while each request is answered.
#[derive(Clone, Default)]
struct Sent {
    all: Arc<Mutex<Vec<String>>>,
    takes: Duration,
}

impl Sent {
    fn writer(&self, term: Term) -> Writer {
        let sent = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let sent = sent.clone();
            async move {
                sent.all.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
                advance(sent.takes).await;
                let refusal = json!({
                    "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no",
                });
                let body = Body::from(serde_json::to_vec(&refusal).unwrap());
                Ok::<_, std::io::Error>(Response::builder().status(StatusCode::NOT_FOUND).body(body).unwrap())
            }
        });
        let client = Client::new(service, "ns");
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: None };
        Writer { client: client.clone(), recorder: Recorder::new(client, reporter), term }
    }

    fn number(&self) -> usize {
        self.all.lock().unwrap().len()
    }
}

fn subject() -> Arc<VirtualMachine> {
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "vm1", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
        "spec": {"template": {"spec": {"domain": {"devices": {}}}}},
    });
    Arc::new(serde_json::from_value(vm).unwrap())
}

fn actions() -> Vec<Action> {
    let (name, uid, patch) = ("vm1".to_owned(), "u".to_owned(), json!({"metadata": {"labels": {"a": "b"}}}));
    let metadata = json!({"name": "vm1", "namespace": "ns"});
    let about: ObjectReference = subject().object_ref(&());
    let news = News { about, warning: false, reason: "Told", note: "a sentence".to_owned() };
    let vmi = json!({"metadata": metadata, "spec": {"domain": {"devices": {}}}});
    let migration = json!({"metadata": metadata, "spec": {"vmiName": "vm1"}});
    let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
    vec![
        Action::PatchStatus(json!({"status": {}})),
        Action::Patch(patch.clone()),
        Action::CreateVmi(Box::new(serde_json::from_value(vmi).unwrap())),
        Action::DeleteVmi { name: name.clone(), uid: uid.clone() },
        Action::PatchVmi { name: name.clone(), patch: patch.clone() },
        Action::PatchVmiStatus { name: name.clone(), patch },
        Action::CreateMigration(Box::new(serde_json::from_value(migration).unwrap())),
        Action::DeleteMigration { name: name.clone(), uid: uid.clone() },
        Action::Tell(Box::new(news)),
        Action::CreatePod(Box::new(pod)),
        Action::DeletePod { name, uid },
    ]
}

/// Another virt-controller may lead when a process goes on that was frozen.
#[tokio::test(start_paused = true)]
async fn every_action_is_carried_out_within_the_term_and_none_after_it() {
    for action in actions() {
        let sent = Sent::default();
        let writer = sent.writer(Term::until(Instant::now() + TERM));
        advance(TERM - Duration::from_millis(1)).await;
        let _ = writer.carry_out(subject(), vec![action.clone()]).await;
        assert_eq!(sent.number(), 1, "{action:?}");
        advance(Duration::from_millis(1)).await;
        let done = writer.carry_out(subject(), vec![action.clone()]).await;
        assert_eq!(sent.number(), 1, "{action:?}: {:?}", sent.all.lock().unwrap());
        match (&action, done) {
            // What isn't told is no reason to decide again.
            (Action::Tell(_), Ok(())) => {}
            (_, Err(error @ ActError::NotLeading { .. })) => {
                assert_eq!(error.to_string(), "VirtualMachine ns/vm1 is left to whoever leads now");
            }
            (_, other) => panic!("{action:?}: {other:?}"),
        }
    }
}

/// A round that was frozen in its middle isn't finished.
#[tokio::test(start_paused = true)]
async fn the_term_is_asked_for_before_each_action_of_a_round() {
    let delete = |name: &str| Action::DeletePod { name: name.to_owned(), uid: "u".to_owned() };
    let sent = Sent { takes: TERM / 2, ..Sent::default() };
    let writer = sent.writer(Term::until(Instant::now() + TERM));
    let round = vec![delete("a"), delete("b"), delete("c"), delete("d")];
    let error = writer.carry_out(subject(), round).await.unwrap_err();
    assert!(matches!(error, ActError::NotLeading { .. }), "{error:?}");
    let pods = "DELETE /api/v1/namespaces/ns/pods";
    assert_eq!(*sent.all.lock().unwrap(), [format!("{pods}/a"), format!("{pods}/b")]);
}
