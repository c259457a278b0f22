//! The Docker engine as the backend of cold starts (platform.md §5.4 and §6).

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::reader::Reader;

/// The variables that must be set together for a private registry.
const REGISTRY: [&str; 3] = ["DOCKER_REGISTRY_USERNAME", "DOCKER_REGISTRY_PASSWORD", "DOCKER_REGISTRY_URL"];

/// An engine and what it makes.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `DOCKER_HOST`: where the engine listens, `unix:///var/run/docker.sock` by default.
    pub host: DockerHost,
    /// `DOCKER_API_VERSION`: the version in each request's path; asked for once when unset.
    pub api_version: Option<ApiVersion>,
    /// `DOCKER_PLATFORM`: such as `linux/amd64`; the engine's own when unset.
    pub platform: Option<String>,
    /// `DOCKER_STRIP_IMAGE_DIGEST`: take images by tag, true by default.
    pub strip_image_digest: bool,
    /// `DOCKER_ENFORCE_MACHINE_PRESETS`: limit CPU and memory to the run's preset, true by default.
    pub enforce_machine_presets: bool,
    /// `DOCKER_AUTOREMOVE_EXITED_CONTAINERS`: the engine removes what has exited, true by default.
    pub autoremove: bool,
    /// `DOCKER_RUNNER_NETWORKS`: the first is given at the create, the others are connected; `host` by
    /// default.
    ///
    /// Never empty.
    pub networks: Vec<String>,
    /// Which credentials pull images.
    pub registry: RegistryConfig,
    /// `WARMPROOF_DOCKER_TIMEOUT_MS`: longest one request may take, pulls aside; 30 s by default.
    ///
    /// Too low and creates of a busy engine count as uncertain; too high and a hanging engine holds a
    /// fallback slot until the platform's redrive.
    pub timeout: Duration,
    /// `WARMPROOF_DOCKER_PULL_TIMEOUT_MS`: longest a pull may take, 10 min by default.
    ///
    /// Too low and large images never come; too high and a stuck pull blocks every cold start of that image.
    pub pull_timeout: Duration,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// The path of a socket.
    Unix(String),
    /// Host and port, in plain text.
    Tcp(String),
}

/// A version of the engine's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiVersion {
    /// The part before the point.
    pub major: usize,
    /// The part behind it.
    pub minor: usize,
}

/// Which credentials pull images, chosen as the platform's supervisor chooses (platform.md §5.4).
#[derive(Debug, Clone)]
pub enum RegistryConfig {
    /// No credentials.
    Anonymous,
    /// The three `DOCKER_REGISTRY_*`.
    Static {
        /// `DOCKER_REGISTRY_USERNAME`
        username: String,
        /// `DOCKER_REGISTRY_PASSWORD`
        password: SecretString,
        /// `DOCKER_REGISTRY_URL`
        url: String,
    },
    /// A token of ECR; the AWS libraries find their credentials in their own variables and files.
    Ecr,
}

impl DockerConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (host, api_version) = (read_host(reader), read_api_version(reader));
        let platform = reader.optional_text("DOCKER_PLATFORM");
        let strip_image_digest = reader.flag("DOCKER_STRIP_IMAGE_DIGEST", true);
        let enforce_machine_presets = reader.flag("DOCKER_ENFORCE_MACHINE_PRESETS", true);
        let autoremove = reader.flag("DOCKER_AUTOREMOVE_EXITED_CONTAINERS", true);
        let (networks, registry) = (read_networks(reader), RegistryConfig::read(reader));
        let timeout = reader.millis("WARMPROOF_DOCKER_TIMEOUT_MS", 30_000, 1_000..=600_000);
        let pull_timeout = reader.millis("WARMPROOF_DOCKER_PULL_TIMEOUT_MS", 600_000, 1_000..=3_600_000);
        Some(Self {
            host: host?,
            api_version,
            platform,
            strip_image_digest,
            enforce_machine_presets,
            autoremove,
            networks,
            registry: registry?,
            timeout,
            pull_timeout,
        })
    }
}

impl RegistryConfig {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let username = reader.optional_text(REGISTRY[0]);
        let password = reader.optional_secret(REGISTRY[1]);
        let url = reader.optional_text(REGISTRY[2]);
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| reader.optional_text(name));
        let sources = ["AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"];
        // All are read, so that the list of known variables is complete.
        let sources = sources.map(|name| reader.optional_text(name));
        match (username, password, url) {
            (Some(username), Some(password), Some(url)) => Some(Self::Static { username, password, url }),
            (None, None, None) => {
                let aws = keys.iter().all(Option::is_some) || sources.iter().any(Option::is_some);
                Some(if aws { Self::Ecr } else { Self::Anonymous })
            }
            (username, password, url) => {
                let set = [username.is_some(), password.is_some(), url.is_some()];
                for (variable, _) in REGISTRY.into_iter().zip(set).filter(|(_, is_set)| !is_set) {
                    if reader.is_set(variable) {
                        // It names a file that could not be read, which is a fault of its own.
                        continue;
                    }
                    let hint = "set all three `DOCKER_REGISTRY_*`, or none";
                    reader.fault(variable, "is not set, but others of its kind are", hint);
                }
                None
            }
        }
    }
}

fn read_host(reader: &mut Reader<'_>) -> Option<DockerHost> {
    let variable = "DOCKER_HOST";
    let text = reader.text_or(variable, "unix:///var/run/docker.sock");
    if reader.optional_text("DOCKER_TLS_VERIFY").is_some() {
        let hint = "leave it out; reach the engine through its socket or a tunnel";
        reader.fault("DOCKER_TLS_VERIFY", "is set, but TLS to the engine is not supported", hint);
    }
    if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
        return Some(DockerHost::Unix(path.to_owned()));
    }
    let rest = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"));
    let url = rest.and_then(|rest| Url::parse(&format!("http://{rest}")).ok());
    let plain = url.filter(|url| {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        bare && url.username().is_empty() && url.password().is_none()
    });
    if let Some((host, port)) = plain.as_ref().and_then(|url| Some((url.host_str()?, url.port()))) {
        // The engine's port, as its own client has it.
        return Some(DockerHost::Tcp(format!("{host}:{}", port.unwrap_or(2375))));
    }
    let hint = "set it to `unix:///path/of.sock` or `tcp://host:port`";
    reader.fault(variable, "is not the address of an engine", hint);
    None
}

fn read_api_version(reader: &mut Reader<'_>) -> Option<ApiVersion> {
    let variable = "DOCKER_API_VERSION";
    let text = reader.optional_text(variable)?;
    let parts = text.split_once('.');
    let version = parts.and_then(|(major, minor)| {
        Some(ApiVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
    });
    if version.is_none() {
        reader.fault(variable, "is not a version", "set it to a version such as `1.41`, or leave it out");
    }
    version
}

fn read_networks(reader: &mut Reader<'_>) -> Vec<String> {
    let variable = "DOCKER_RUNNER_NETWORKS";
    let text = reader.text_or(variable, "host");
    let networks: Vec<String> = text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if networks.is_empty() || networks.iter().any(|name| name.trim() != name) {
        // The platform's supervisor takes the spaces for part of a name, and no network has such a name.
        let hint = "set it to names separated by commas, without spaces";
        reader.fault(variable, "holds an empty name or spaces around one", hint);
    }
    if networks.len() > 1 && networks.iter().any(|name| name == "host") {
        let hint = "set it to `host` alone, or to other networks";
        reader.fault(variable, "joins `host` with others, which the engine refuses", hint);
    }
    networks
}
