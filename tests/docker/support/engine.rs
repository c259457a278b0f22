//! The engine of this run of tests, and workloads made with it.

use std::collections::HashMap;

use bollard::Docker;
use bollard::body_full;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, NetworkConnectRequest, NetworkCreateRequest,
};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    InspectContainerOptions, RemoveContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use secrecy::ExposeSecret;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;
use uuid::Uuid;
use warmproof::config::environment::Environment;
use warmproof::config::reader;
use warmproof::config::workload::WorkloadConfig;
use warmproof::domain::dispatch::ColdStartRequest;
use warmproof::domain::ids::VerificationId;
use warmproof::workload::{CreateRequest, Workload};
use warmproof_lab::simulator::SimulatorOptions;

use warmproof_testkit::platform::{Dispatched, Platform};
use warmproof_testkit::process::Program;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::until;

pub const SNAPSHOT_LABEL: &str = "warmproof.snapshot-id";

/// The image of the simulated platform's deployment, without its digest.
pub const IMAGE: &str = "registry.simulated.example/deployments/proj_hqkldvbmxwqzwprtcyfa:20260821.3.prod";

pub struct Engine {
    pub docker: Docker,
    pub host: String,
}

/// The engine, with the runner's image built.
pub async fn engine() -> Engine {
    static IMAGES: OnceCell<()> = OnceCell::const_new();
    let host = variable("WARMPROOF_TEST_DOCKER_HOST");
    let path = host.strip_prefix("unix://").expect("a socket");
    let docker = Docker::connect_with_unix(path, 60, bollard::API_DEFAULT_VERSION).expect("a socket");
    IMAGES.get_or_init(|| build(&docker)).await;
    Engine { docker, host }
}

/// The archive that the image is built from; it holds the program `runner`.
pub fn context() -> Vec<u8> {
    std::fs::read(variable("WARMPROOF_TEST_RUNNER_CONTEXT")).expect("the build context")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test-docker`"))
}

async fn build(docker: &Docker) {
    let options = BuildImageOptionsBuilder::default().t(IMAGE).build();
    let steps = docker.build_image(options, None, Some(body_full(context().into())));
    steps.try_collect::<Vec<_>>().await.expect("an image");
}

/// A backend for this engine and platform, with some variables more.
pub fn workload(host: &str, platform: &Platform, extra: &[(&str, &str)]) -> Workload {
    let mut environment = environment(host, platform);
    environment.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let environment = Environment::from_pairs(environment);
    let config = reader::read_all(&environment, WorkloadConfig::read).expect("a configuration");
    Workload::new(&config).expect("a backend")
}

/// The variables that lead a worker to this engine, and its runners to this platform.
pub fn environment(host: &str, platform: &Platform) -> HashMap<String, String> {
    let options = SimulatorOptions::default();
    let url = platform.simulator.base_url();
    let port = url.rsplit(':').next().expect("a port");
    let reported = format!(
        "WORKER_TOKEN={},MANAGED_SECRET={}",
        options.worker_token.expose_secret(),
        options.managed_secret.expose_secret()
    );
    [
        ("WARMPROOF_BACKEND", "docker"),
        ("DOCKER_HOST", host),
        // An ended container stays, so that a test can inspect it.
        ("DOCKER_AUTOREMOVE_EXITED_CONTAINERS", "false"),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "localhost"),
        ("TRIGGER_WORKLOAD_API_PORT_EXTERNAL", port),
        ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://telemetry.example:4318"),
        ("RUNNER_ADDITIONAL_ENV_VARS", &reported),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A worker of this name whose cold starts are this engine's.
pub fn docker_worker(stage: &Stage, host: &str, name: &str) -> Program {
    let reported = environment(host, &stage.platform);
    let worker = reported.iter().fold(stage.worker(name), |worker, (name, value)| worker.env(name, value));
    worker.env("TRIGGER_WORKER_INSTANCE_NAME", name)
}

/// The variables for runners, and one more.
pub fn reported(host: &str, platform: &Platform, more: &str) -> String {
    format!("{},{more}", environment(host, platform)["RUNNER_ADDITIONAL_ENV_VARS"])
}

/// The request that a worker makes for a dispatch.
pub fn create_of(dispatched: &Dispatched) -> CreateRequest {
    let request = ColdStartRequest::parse(dispatched.message.get()).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId(Uuid::now_v7())),
        request,
        message: dispatched.message.get().to_owned(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    }
}

impl Engine {
    pub async fn inspect(&self, name: &str) -> Option<ContainerInspectResponse> {
        self.docker.inspect_container(name, None::<InspectContainerOptions>).await.ok()
    }

    /// Such as `running`, or `None` if there is no such container.
    pub async fn state(&self, name: &str) -> Option<String> {
        let state = self.inspect(name).await?.state?.status?;
        Some(state.to_string())
    }

    pub async fn ended(&self, name: &str) {
        until(&format!("{name} ends"), async || self.state(name).await.filter(|state| state == "exited"))
            .await;
    }

    /// Makes a container of this dispatch and does not start it, as a worker does that dies in between.
    pub async fn make_only(&self, create: &CreateRequest, label: &str, env: Vec<String>) -> String {
        let options = CreateContainerOptionsBuilder::default().name(&create.name).build();
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            hostname: Some(create.name.clone()),
            env: Some(env),
            labels: Some([(SNAPSHOT_LABEL.to_owned(), label.to_owned())].into()),
            host_config: Some(HostConfig { network_mode: Some("host".to_owned()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        self.docker.create_container(Some(options), body).await.expect("a container").id
    }

    /// The same, in another network than the host's.
    pub async fn make_only_in(&self, create: &CreateRequest, network: &str) -> String {
        let options = CreateContainerOptionsBuilder::default().name(&create.name).build();
        let snapshot = create.request.snapshot.friendly_id.to_string();
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            env: Some(vec!["EXIT=0".to_owned()]),
            labels: Some([(SNAPSHOT_LABEL.to_owned(), snapshot)].into()),
            host_config: Some(HostConfig { network_mode: Some(network.to_owned()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        self.docker.create_container(Some(options), body).await.expect("a container").id
    }

    /// A network of containers that leads nowhere else.
    pub async fn network(&self, name: &str) {
        // The interface is the host's, so it is named to be found, should this test fail.
        let bridge = format!("{}-{name}", variable("WARMPROOF_TEST_BRIDGES"));
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            internal: Some(true),
            options: Some([("com.docker.network.bridge.name".to_owned(), bridge)].into()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await.expect("a network");
    }

    pub async fn remove_network(&self, name: &str) {
        self.docker.remove_network(name).await.expect("a network is removed");
    }

    pub async fn connect(&self, network: &str, container: &str) {
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: None };
        self.docker.connect_network(network, request).await.expect("a connection");
    }

    /// An image whose program does not exist.
    pub async fn image_of_nothing(&self) -> String {
        let image = "nothing.example/at/all:1";
        let options =
            CreateImageOptionsBuilder::default().from_src("-").repo("nothing.example/at/all").tag("1");
        let options = options.changes(vec!["CMD [\"/missing\"]".to_owned()]).build();
        let steps = self.docker.create_image(Some(options), Some(body_full(context().into())), None);
        steps.try_collect::<Vec<_>>().await.expect("an image");
        image.to_owned()
    }

    pub async fn remove(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(name, Some(options)).await.expect("a container is removed");
    }

    /// Writes down the names of all containers made from now on.
    pub async fn births(&self) -> Births {
        let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["create", "destroy"])]);
        let mut events = self.docker.events(Some(EventsOptionsBuilder::default().filters(&filters).build()));
        let (reported, names) = mpsc::unbounded_channel();
        let listener = tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                let name = attributes.get("name").cloned().unwrap_or_default();
                let _ = reported.send((event.action.unwrap_or_default(), name));
            }
        });
        let mut births = Births { names, listener };
        // The engine sends no events from before it began to listen, so wait until it does.
        let marker = format!("marker-{}", Uuid::new_v4());
        let options = CreateContainerOptionsBuilder::default().name(&marker).build();
        let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..ContainerCreateBody::default() };
        self.docker.create_container(Some(options), body).await.expect("a container");
        self.remove(&marker).await;
        births.until_gone(&marker).await;
        births
    }
}

/// The containers made since; see [`Engine::births`].
pub struct Births {
    names: mpsc::UnboundedReceiver<(String, String)>,
    listener: JoinHandle<()>,
}

impl Births {
    /// How often each name was made, until now.
    pub async fn count(mut self, engine: &Engine) -> HashMap<String, usize> {
        let marker = format!("marker-{}", Uuid::new_v4());
        let options = CreateContainerOptionsBuilder::default().name(&marker).build();
        let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..ContainerCreateBody::default() };
        engine.docker.create_container(Some(options), body).await.expect("a container");
        engine.remove(&marker).await;
        let seen = self.until_gone(&marker).await;
        self.listener.abort();
        let mut counts = HashMap::new();
        for name in seen.into_iter().filter(|name| !name.starts_with("marker-")) {
            *counts.entry(name).or_default() += 1;
        }
        counts
    }

    /// The names made before this one was removed; events come in order.
    async fn until_gone(&mut self, marker: &str) -> Vec<String> {
        let mut made = Vec::new();
        loop {
            let (action, name) =
                warmproof_testkit::wait::within("an event comes", self.names.recv()).await.expect("events");
            match action.as_str() {
                "destroy" if name == marker => return made,
                "create" => made.push(name),
                _ => {}
            }
        }
    }
}
