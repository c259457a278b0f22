//! Images: present, or pulled once for all callers that wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::{StreamExt, TryStreamExt};

use crate::config::docker::DockerConfig;
use crate::workload::answer::presentable;
use crate::workload::{BuildError, CreateError};

use super::credentials::Credentials;
use super::engine::{DockerEngine, EngineError};
use super::registry::Registry;
use super::wording::{judge, transient};

/// Statuses of a pull that will not change: no such image, or no access.
const PULL_PERMANENT: [u16; 4] = [400, 401, 403, 404];

/// A registry's own refusals. Engines pass them on as a 500 or in the middle of the progress, so only the
/// words distinguish them from an outage.
const REGISTRY_REFUSALS: [&str; 6] = [
    "unauthorized",
    "no basic auth credentials",
    "authentication required",
    "access denied",
    "manifest unknown",
    "name unknown",
];

type Pull = Shared<BoxFuture<'static, Result<(), CreateError>>>;

/// The engine's images. Clones share the pulls in progress.
#[derive(Clone)]
pub(super) struct Images {
    engine: DockerEngine,
    registry: Registry,
    platform: Option<String>,
    timeout: Duration,
    pulls: Arc<Mutex<HashMap<String, Pull>>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// The image to request, without its digest if images are identified by tag.
pub(super) fn reference(image: &str, strip_digest: bool) -> Result<String, CreateError> {
    let image = image.split('@').next().filter(|_| strip_digest).unwrap_or(image);
    // It becomes part of a path of the engine's API.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@[]".contains(&byte);
    if image.is_empty()
        || !image.bytes().all(fits)
        || image.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return Err(CreateError::Permanent {
            reason: "the run's image is not a valid image name".to_owned(),
        });
    }
    Ok(image.to_owned())
}

impl Images {
    pub(super) fn new(engine: &DockerEngine, config: &DockerConfig) -> Result<Self, BuildError> {
        Ok(Self {
            engine: engine.clone(),
            registry: Registry::new(config)?,
            platform: config.platform.clone(),
            timeout: config.pull_timeout,
            pulls: Arc::default(),
        })
    }

    /// Pulls the image unless it is there for the wanted platform.
    pub(super) async fn ensure(&self, image: String) -> Result<(), CreateError> {
        match self.find(&image).await? {
            Presence::There => Ok(()),
            Presence::Missing | Presence::OtherPlatform { .. } => self.pull(image).await,
        }
    }

    /// Joins the pull in progress, or begins one. It goes on without callers: the next one finds the image.
    async fn pull(&self, image: String) -> Result<(), CreateError> {
        let pull = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || {
                let (images, image) = (self.clone(), image.clone());
                let task = tokio::spawn(async move {
                    let _over = Over { images: &images, image: &image };
                    images.pull_alone(&image).await
                });
                task.map(|ended| {
                    ended.unwrap_or_else(|error| Err(transient(format!("the pull was cut short: {error}"))))
                })
                .boxed()
                .shared()
            };
            pulls.entry(image.clone()).or_insert_with(begin).clone()
        };
        pull.await
    }

    async fn pull_alone(&self, image: &str) -> Result<(), CreateError> {
        tracing::info!(image, "pulling an image");
        let pulled = tokio::time::timeout(self.timeout, self.pull_and_check(image)).await;
        pulled.unwrap_or_else(|_| {
            let limit = self.timeout.as_millis();
            Err(transient(format!("the image `{image}` was not pulled within {limit} ms")))
        })
    }

    async fn pull_and_check(&self, image: &str) -> Result<(), CreateError> {
        let credentials = self.registry.credentials().await.map_err(transient)?;
        if let Err(error) = self.stream(image, credentials.as_ref()).await {
            let password = credentials.as_ref().map(Credentials::secret);
            let error = pull_error(image, &error, password.as_slice());
            if matches!(error, CreateError::Permanent { .. }) {
                self.registry.refused().await;
            }
            return Err(error);
        }
        // The end of the progress proves nothing: the connection may have ended it.
        match self.find(image).await? {
            Presence::There => Ok(()),
            Presence::Missing => Err(transient(format!("the pull of `{image}` ended without the image"))),
            Presence::OtherPlatform { architecture } => {
                let wanted = self.platform.as_deref().unwrap_or_default();
                let reason = format!("the image `{image}` is for `{architecture}`, not for `{wanted}`");
                Err(CreateError::Permanent { reason })
            }
        }
    }

    /// Reads the whole progress: an error in it means that the pull failed.
    async fn stream(&self, image: &str, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        // Without a tag the engine would pull all tags.
        let tag = if is_name_only(image) { "latest" } else { "" };
        let options = CreateImageOptionsBuilder::default()
            .from_image(image)
            .tag(tag)
            .platform(self.platform.as_deref().unwrap_or_default())
            .build();
        let docker = self.engine.client().await?;
        let progress = docker.create_image(Some(options), None, credentials.map(Credentials::for_engine));
        progress.map(|step| step.map(drop)).try_collect::<()>().await.map_err(EngineError::from)
    }

    async fn find(&self, image: &str) -> Result<Presence, CreateError> {
        let inspect = |docker: bollard::Docker| async move { docker.inspect_image(image).await };
        match self.engine.call(inspect).await {
            Ok(found) => Ok(Presence::at(&found, self.platform.as_deref())),
            Err(EngineError::Refused { status: 404, .. }) => Ok(Presence::Missing),
            Err(error) => Err(transient(presentable(&format!("could not look up the image: {error}"), &[]))),
        }
    }
}

/// Takes a pull off the list when it is over, also after a panic.
struct Over<'a> {
    images: &'a Images,
    image: &'a str,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.images.pulls.lock().unwrap_or_else(PoisonError::into_inner).remove(self.image);
    }
}

/// What the engine has for a reference.
#[derive(Debug, PartialEq, Eq)]
enum Presence {
    There,
    Missing,
    OtherPlatform { architecture: String },
}

impl Presence {
    /// The platform must contain the image's architecture, as text (platform.md §5.4).
    fn at(found: &ImageInspect, platform: Option<&str>) -> Self {
        let architecture = found.architecture.as_deref().unwrap_or_default();
        match platform {
            Some(platform) if !platform.contains(architecture) => {
                Self::OtherPlatform { architecture: architecture.to_owned() }
            }
            Some(_) | None => Self::There,
        }
    }
}

/// Whether a reference has neither tag nor digest. A colon before the last `/` is a port's.
fn is_name_only(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !last.contains([':', '@'])
}

/// A pull makes no workload, so a failed one is never uncertain.
fn pull_error(image: &str, error: &EngineError, secrets: &[&str]) -> CreateError {
    match judge(&format!("pull `{image}`"), error, &PULL_PERMANENT, secrets) {
        CreateError::Permanent { reason } => CreateError::Permanent { reason },
        CreateError::Transient { reason, .. } | CreateError::Uncertain { reason } => {
            let words = error.to_string().to_lowercase();
            if REGISTRY_REFUSALS.iter().any(|phrase| words.contains(phrase)) {
                return CreateError::Permanent { reason };
            }
            transient(reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_identified_by_tag_unless_configured_otherwise() {
        let full = "registry.example:5000/a/b:1@sha256:abc";
        assert_eq!(reference(full, true).unwrap(), "registry.example:5000/a/b:1");
        assert_eq!(reference(full, false).unwrap(), full);
        for bad in ["", "@sha256:abc", "a/../../containers/json", "a?b", "a b", "a#b", "a//b", "%2e"] {
            assert!(matches!(reference(bad, true), Err(CreateError::Permanent { .. })), "{bad}");
        }
    }

    #[test]
    fn only_a_name_without_tag_and_digest_gets_a_tag() {
        for (image, expected) in [
            ("a", true),
            ("localhost:5000/a", true),
            ("a:1", false),
            ("r:5000/a:1", false),
            ("a@sha256:b", false),
        ] {
            assert_eq!(is_name_only(image), expected, "{image}");
        }
    }

    #[test]
    fn an_image_of_another_architecture_is_not_the_wanted_one() {
        let image = ImageInspect { architecture: Some("arm64".to_owned()), ..ImageInspect::default() };
        assert_eq!(Presence::at(&image, None), Presence::There);
        assert_eq!(Presence::at(&image, Some("linux/arm64/v8")), Presence::There);
        let other = Presence::OtherPlatform { architecture: "arm64".to_owned() };
        assert_eq!(Presence::at(&image, Some("linux/amd64")), other);
    }

    #[test]
    fn a_refused_pull_is_permanent_and_a_broken_one_is_not() {
        let refused = |status, message: &str| {
            pull_error("a", &EngineError::Refused { status, message: message.to_owned() }, &[])
        };
        for (status, message) in [
            (404, ""),
            (401, ""),
            (403, ""),
            (500, "manifest unknown"),
            (500, "Get x: no basic auth credentials"),
        ] {
            assert!(matches!(refused(status, message), CreateError::Permanent { .. }), "{status} {message}");
        }
        for (status, message) in [(500, "connection refused"), (429, "slow down"), (503, "")] {
            assert!(matches!(refused(status, message), CreateError::Transient { .. }), "{status} {message}");
        }
        let cut = EngineError::Unanswered { reason: "the stream ended".to_owned() };
        assert!(matches!(pull_error("a", &cut, &[]), CreateError::Transient { .. }));
    }
}
