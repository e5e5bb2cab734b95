//! Logs: one JSON object per line on stderr, with KubeVirt's field names.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// KubeVirt's default verbosity.
pub const DEFAULT_VERBOSITY: u32 = 2;

/// Starts logging. `RUST_LOG` decides what is logged; without it `verbosity` does, as KubeVirt's `-v`
/// (2 is info, 3 debug, from 6 on everything). A second call changes nothing.
pub fn init(component: &'static str, verbosity: u32) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives(verbosity)));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(KubeVirtJson { component })
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging was started before");
    }
}

/// Libraries speak only from verbosity 6 on: at debug they would drown what the component says.
fn directives(verbosity: u32) -> &'static str {
    match verbosity {
        0 => "error",
        1 => "warn",
        2 => "info,kube_client=warn,kube_runtime=warn",
        3..=5 => {
            "debug,kube_client=info,kube_runtime=info,hyper=info,hyper_util=info,rustls=info,tower=info,h2=info"
        }
        6.. => "trace",
    }
}

struct KubeVirtJson {
    component: &'static str,
}

impl<S, N> FormatEvent<S, N> for KubeVirtJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = line(self.component, jiff::Timestamp::now(), event);
        writeln!(writer, "{line}")
    }
}

fn line(component: &str, now: jiff::Timestamp, event: &Event<'_>) -> Value {
    let metadata = event.metadata();
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let message = fields.0.remove("message").unwrap_or_default();
    let mut line = Map::new();
    line.insert("component".into(), component.into());
    line.insert("level".into(), level(*metadata.level()).into());
    line.insert("msg".into(), message);
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        line.insert("pos".into(), format!("{}:{number}", file.rsplit('/').next().unwrap_or(file)).into());
    }
    line.insert("timestamp".into(), now.to_string().into());
    for (name, value) in fields.0 {
        line.entry(name).or_insert(value);
    }
    Value::Object(line)
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Catch(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> tracing_subscriber::Layer<S> for Catch {
        fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let line = line("virt-api", jiff::Timestamp::UNIX_EPOCH, event);
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn a_line_has_kubevirts_names() {
        use tracing_subscriber::layer::SubscriberExt;
        let caught = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Catch(caught.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(node = "worker-1", tries = 3, level = "mine", "no answer from {}", "launcher");
        });
        let mut line = caught.lock().unwrap().remove(0);
        let pos = line.as_object_mut().unwrap().remove("pos").unwrap();
        assert!(pos.as_str().unwrap().starts_with("logging.rs:"), "{pos}");
        assert_eq!(
            line,
            serde_json::json!({
                "component": "virt-api", "level": "warning", "msg": "no answer from launcher",
                "timestamp": "1970-01-01T00:00:00Z", "node": "worker-1", "tries": 3,
            })
        );
    }
}
