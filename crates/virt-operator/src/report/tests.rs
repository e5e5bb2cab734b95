//! The reporter against an API server that keeps ConfigMaps and answers nothing else.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kubevirt_manifests::InstallConfig;
use kubevirt_rollout::Direction;
use kubevirt_rollout::observed::{Certificates, Operator};
use kubevirt_rollout::report::Outcome;
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_types::Release;
use serde_json::{Value, json};

use super::*;

/// ConfigMaps by name, and how many writes there were.
#[derive(Debug, Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    writes: u64,
    refuses: bool,
}

type Server = Arc<Mutex<Stored>>;

fn status(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": reason, "reason": reason,
    });
    (code, status)
}

impl Stored {
    fn answer(&mut self, method: &Method, name: Option<String>, body: Option<Value>) -> (u16, Value) {
        if self.refuses {
            return status(403, "Forbidden");
        }
        match (method, name, body) {
            (&Method::GET, None, _) => {
                let items: Vec<_> = self.objects.values().cloned().collect();
                (200, json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {}, "items": items}))
            }
            (&Method::GET, Some(name), _) => match self.objects.get(&name) {
                Some(object) => (200, object.clone()),
                None => status(404, "NotFound"),
            },
            (&Method::DELETE, Some(name), _) => match self.objects.remove(&name) {
                Some(object) => (200, object),
                None => status(404, "NotFound"),
            },
            (_, name, Some(mut body)) => {
                let name = name.unwrap_or_else(|| body["metadata"]["name"].as_str().unwrap().to_owned());
                let there =
                    self.objects.get(&name).map(|object| object["metadata"]["resourceVersion"].clone());
                match (method, there) {
                    (&Method::POST, Some(_)) => return status(409, "AlreadyExists"),
                    (&Method::PATCH, None) => return status(404, "NotFound"),
                    (&Method::PATCH, Some(there)) if body["metadata"]["resourceVersion"] != there => {
                        return status(409, "Conflict");
                    }
                    _ => {}
                }
                self.writes += 1;
                body["metadata"]["resourceVersion"] = json!(self.writes.to_string());
                body["metadata"]["uid"] = json!("u");
                self.objects.insert(name, body.clone());
                (200, body)
            }
            (method, ..) => panic!("{method} is not expected"),
        }
    }
}

fn client(server: &Server) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let base = "/api/v1/namespaces/kubevirt/configmaps";
            let Some(rest) = head.uri.path().strip_prefix(base) else {
                return futures::future::pending().await;
            };
            // the watch of the cache
            if head.uri.query().is_some_and(|query| query.contains("managed-by")) {
                return futures::future::pending().await;
            }
            let body = body.collect().await.unwrap().to_bytes();
            let name = rest.strip_prefix('/').map(str::to_owned);
            let (code, answer) =
                server.lock().unwrap().answer(&head.method, name, serde_json::from_slice(&body).ok());
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        }
    });
    Client::new(service, "kubevirt")
}

fn reporter(server: &Server) -> Reporter {
    let (client, shutdown) = (client(server), Shutdown::new());
    let cache = Cache::start(&client, "kubevirt", &shutdown);
    Reporter::new(client, cache, "kubevirt", TermLog::default())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn record(started: i64, completed: Option<i64>) -> UpdateRecord {
    UpdateRecord {
        from: Some("v0.17.0".into()),
        to: "v0.18.0".into(),
        started: at(started),
        completed: completed.map(at),
        failed: None,
        superseded_by: None,
        report: None,
    }
}

/// A world whose KubeVirt object has this history.
fn world(history: Vec<UpdateRecord>) -> Observed {
    let mut kubevirt: KubeVirt = serde_json::from_value(json!({
        "metadata": {"name": "kubevirt", "namespace": "kubevirt", "uid": "kv", "resourceVersion": "1"},
        "spec": {},
    }))
    .unwrap();
    kubevirt.status = Some(KubeVirtStatus { history, ..KubeVirtStatus::default() });
    Observed {
        synced: true,
        operator: Operator { release: Release::V0_18_0, registry: "r".into(), namespace: "kubevirt".into() },
        kubevirt: Some(kubevirt),
        other_kubevirts: vec![],
        objects: [].into(),
        pods: vec![],
        nodes: vec![],
        strategies: [].into(),
        strategy_jobs: vec![],
        reporters: vec![],
        guard_active: false,
        certificates: Certificates::default(),
        instances: [].into(),
    }
}

fn plan(stage: Stage) -> Plan {
    Plan {
        direction: if stage == Stage::Settled { Direction::Steady } else { Direction::Update },
        stage,
        steps: vec![],
        waiting_on: vec![],
        target: Some(InstallConfig::of(Release::V0_18_0)),
        failed: None,
    }
}

/// One round at this second; what it put into the status.
async fn round(
    reporter: &mut Reporter,
    history: &[UpdateRecord],
    stage: Stage,
    now: i64,
) -> Option<ReportSummary> {
    let observed = world(history.to_vec());
    let mut status = observed.kubevirt.as_ref().unwrap().status.clone().unwrap();
    reporter.round(&observed, &plan(stage), &mut status, at(now)).await;
    status.history.pop().and_then(|record| record.report)
}

fn kept(server: &Server) -> Vec<UpdateReport> {
    let read =
        |object: &Value| serde_json::from_str(object["data"]["report.json"].as_str().unwrap()).unwrap();
    server.lock().unwrap().objects.values().map(read).collect()
}

fn writes(server: &Server) -> u64 {
    server.lock().unwrap().writes
}

#[tokio::test]
async fn a_report_goes_with_its_update_from_stage_to_stage() {
    let server = Server::default();
    let mut reporter = reporter(&server);
    assert_eq!(round(&mut reporter, &[record(-9, Some(-1))], Stage::Settled, 0).await, None);
    assert_eq!(writes(&server), 0, "nothing goes on");
    let going_on = [record(0, None)];
    let said = round(&mut reporter, &going_on, Stage::Handlers, 1).await.unwrap();
    assert_eq!(said.config_map, name_of(at(0)));
    round(&mut reporter, &going_on, Stage::Handlers, 2).await;
    assert_eq!(writes(&server), 1, "nothing new, and stored a moment ago");
    round(&mut reporter, &going_on, Stage::Controllers, 3).await;
    assert_eq!(writes(&server), 2, "a new stage");
    let object = server.lock().unwrap().objects[&name_of(at(0))].clone();
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "kv");
    assert_eq!(object["metadata"]["labels"], json!({"kubevirt.io/update-report": ""}));
}

/// Ends the updates without the network: a prober's last look would wait for it.
#[tokio::test(start_paused = true)]
async fn a_report_ends_when_its_record_does() {
    let server = Server::default();
    let mut reporter = reporter(&server);
    round(&mut reporter, &[record(0, None)], Stage::Handlers, 1).await;
    let said = round(&mut reporter, &[record(0, Some(20))], Stage::Settled, 21).await.unwrap();
    assert_eq!(said.seconds, 20);
    let [report] = &kept(&server)[..] else { panic!("one report") };
    assert_eq!((report.ended, &report.outcome), (Some(at(20)), &Some(Outcome::Completed)));
    let before = writes(&server);
    let again = round(&mut reporter, &[record(0, Some(20))], Stage::Settled, 31).await;
    assert_eq!((again, writes(&server)), (Some(said), before), "what is over is over");
}

#[tokio::test]
async fn the_next_leader_goes_on_with_it_and_says_what_nobody_saw() {
    let server = Server::default();
    let mut first = reporter(&server);
    round(&mut first, &[record(0, None)], Stage::Handlers, 1).await;
    let mut second = reporter(&server);
    round(&mut second, &[record(0, None)], Stage::Controllers, 40).await;
    let [report] = &kept(&server)[..] else { panic!("one report") };
    let stages: Vec<_> = report.stages.iter().map(|reached| reached.stage.as_str()).collect();
    assert_eq!(stages, ["Handlers", "Controllers"]);
    let unobserved: Vec<_> = report.unobserved.iter().map(|span| span.to).collect();
    assert_eq!(unobserved.first(), Some(&at(1)), "before the first look");
    // the first has lost its lease and doesn't know yet what the second has written
    first.leave().await;
    assert_eq!(kept(&server)[0].stages.len(), 2, "who leads no more overwrites nothing");
}

#[tokio::test]
async fn an_update_that_ended_while_nobody_led_has_a_report_that_ends() {
    let server = Server::default();
    let mut first = reporter(&server);
    round(&mut first, &[record(0, None)], Stage::Handlers, 1).await;
    let mut second = reporter(&server);
    let said = round(&mut second, &[record(0, Some(9))], Stage::Settled, 60).await.unwrap();
    assert_eq!(said.seconds, 9);
    assert_eq!(kept(&server)[0].outcome, Some(Outcome::Completed));
    let mut third = reporter(&server);
    assert_eq!(round(&mut third, &[record(0, Some(9))], Stage::Settled, 70).await, Some(said));
}

#[tokio::test]
async fn what_can_not_be_stored_is_tried_again_and_holds_nobody_up() {
    let server = Server::default();
    server.lock().unwrap().refuses = true;
    let mut reporter = reporter(&server);
    assert_eq!(round(&mut reporter, &[record(0, None)], Stage::Handlers, 1).await, None);
    server.lock().unwrap().refuses = false;
    assert!(round(&mut reporter, &[record(0, None)], Stage::Handlers, 2).await.is_some());
    server.lock().unwrap().objects.clear();
    round(&mut reporter, &[record(0, None)], Stage::Controllers, 3).await;
    assert_eq!(kept(&server).len(), 1, "somebody has deleted it");
}

#[tokio::test(start_paused = true)]
async fn the_last_five_are_kept() {
    let server = Server::default();
    let mut reporter = reporter(&server);
    for update in 0..7 {
        let started = update * 100;
        round(&mut reporter, &[record(started, None)], Stage::Handlers, started + 1).await;
        round(&mut reporter, &[record(started, Some(started + 50))], Stage::Settled, started + 51).await;
    }
    let started: Vec<_> = kept(&server).iter().map(|report| report.started).collect();
    assert_eq!(started, [200, 300, 400, 500, 600].map(at));
}

#[tokio::test(start_paused = true)]
async fn another_target_ends_the_report_and_begins_its_own() {
    let server = Server::default();
    let mut reporter = reporter(&server);
    round(&mut reporter, &[record(0, None)], Stage::Handlers, 1).await;
    let other = UpdateRecord { to: "v0.19.0".into(), ..record(10, None) };
    let superseded = UpdateRecord {
        failed: Some("given up for v0.19.0".into()),
        superseded_by: Some("v0.19.0".into()),
        ..record(0, Some(10))
    };
    let observed = world(vec![superseded, other]);
    let mut status = observed.kubevirt.as_ref().unwrap().status.clone().unwrap();
    reporter.round(&observed, &plan(Stage::Handlers), &mut status, at(11)).await;
    let said: Vec<_> = status.history.into_iter().map(|record| record.report.unwrap()).collect();
    assert_eq!([&said[0].config_map, &said[1].config_map], [&name_of(at(0)), &name_of(at(10))]);
    assert_eq!(said[0].seconds, 10, "each leaves one in the status");
    let [first, second] = &kept(&server)[..] else { panic!("two reports") };
    assert_eq!(first.outcome, Some(Outcome::Superseded { by: "v0.19.0".into() }));
    assert_eq!((first.ended, second.ended), (Some(at(10)), None));
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_record_an_older_operator_dropped_ends_too() {
    let server = Server::default();
    let mut reporter = reporter(&server);
    round(&mut reporter, &[record(0, None)], Stage::Handlers, 1).await;
    let other = UpdateRecord { to: "v0.19.0".into(), ..record(10, None) };
    let said = round(&mut reporter, &[other], Stage::Handlers, 11).await.unwrap();
    assert_eq!(said.config_map, name_of(at(10)));
    let [first, _] = &kept(&server)[..] else { panic!("two reports") };
    assert_eq!(first.outcome, Some(Outcome::Superseded { by: "v0.19.0".into() }));
}
