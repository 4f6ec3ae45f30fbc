//! Job files: YAML to a spec, its rules, the wire and back.

use espalier_proto::Wire;
use espalier_proto::convert::checked_job;
use espalier_spec::JobSpec;

/// Any text is read or refused; a job that passes all rules passes them again once it has travelled.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let read = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize::<_, JobSpec>(deserializer)
            .map_err(serde_path_to_error::Error::into_inner)
    });
    let Ok(spec) = read else { return };
    if espalier_spec::check(&spec).is_ok() {
        let travelled = checked_job(spec.to_wire());
        assert!(travelled.is_ok(), "{travelled:?}");
    }
}
