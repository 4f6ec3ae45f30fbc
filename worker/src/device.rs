//! Where ranks compute: the CPU, or this machine's CUDA devices.
//!
//! Workers are built against libtorch's part for CPUs alone. Its part for CUDA, which a libtorch of the same version with
//! CUDA has, is loaded when it is asked for, so one program serves both kinds of machine.

use crate::torch;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use tch::Device;

/// libtorch's library for CUDA.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";
const CPU: &str = "cpu";
const CUDA: &str = "cuda";
const EXPECTED: &str = "expected auto, cpu, cuda, or CUDA devices such as cuda:0,cuda:1";

/// Devices that a worker is to compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All CUDA devices if there are any, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// All CUDA devices.
    Cuda,
    /// These CUDA devices.
    These(Vec<usize>),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            CPU => return Ok(Self::Cpu),
            CUDA => return Ok(Self::Cuda),
            _ => {}
        }
        let number = |name: &str| {
            let number = name
                .strip_prefix("cuda:")
                .and_then(|own| own.parse().ok().filter(|_| !own.starts_with('+')));
            number.ok_or_else(|| format!("`{name}` is no device: {EXPECTED}"))
        };
        let numbers: Vec<usize> = text.split(',').map(number).collect::<Result<_, _>>()?;
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        match once.len() == numbers.len() {
            true => Ok(Self::These(numbers)),
            false => Err(format!(
                "`{text}` names a device twice: for several ranks on one, give --ranks"
            )),
        }
    }
}

/// What was wanted is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No CUDA at all.
    #[error("--device {wanted}: {why}")]
    NoCuda {
        /// What was asked for.
        wanted: String,
        /// Why there is none, and what to do.
        why: String,
    },
    /// A number beyond what there is.
    #[error("--device cuda:{number}: this machine has {count} CUDA device(s), cuda:0 to cuda:{}", .count - 1)]
    NoSuch {
        /// What was asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
}

impl Wanted {
    /// Names of the devices, at least one; loads libtorch's library for CUDA where that may be wanted, out of `folder`
    /// or as the dynamic linker finds it. Call it before other threads run.
    ///
    /// # Errors
    /// If what is wanted is not there.
    pub fn devices(&self, folder: Option<&Path>) -> Result<Vec<String>, Error> {
        let cpu = || vec![CPU.to_owned()];
        if *self == Self::Cpu {
            return Ok(cpu());
        }
        let count = match (self, cuda(folder)) {
            (_, Ok(count)) => count,
            (Self::Auto, Err(_)) => return Ok(cpu()),
            (_, Err(why)) => {
                let wanted = self.to_string();
                return Err(Error::NoCuda { wanted, why });
            }
        };
        let numbers: Vec<usize> = match self {
            Self::These(numbers) => numbers.clone(),
            _ => (0..count).collect(),
        };
        match numbers.iter().find(|number| **number >= count) {
            Some(&number) => Err(Error::NoSuch { number, count }),
            None => Ok(numbers.into_iter().map(cuda_name).collect()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str(CPU),
            Self::Cuda => f.write_str(CUDA),
            Self::These(numbers) => {
                let names: Vec<String> = numbers.iter().copied().map(cuda_name).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

fn cuda_name(number: usize) -> String {
    format!("{CUDA}:{number}")
}

/// CUDA devices of this machine, at least one; or why there are none. The first call loads the library.
fn cuda(folder: Option<&Path>) -> Result<usize, String> {
    static COUNT: OnceLock<Result<usize, String>> = OnceLock::new();
    let count = COUNT.get_or_init(|| {
        let library = folder.map_or(CUDA_LIBRARY.into(), |folder| folder.join(CUDA_LIBRARY));
        torch::load_cuda(&library).map_err(|error| {
            format!(
                "libtorch's part for CUDA cannot be loaded ({error}): run deploy/setup/setup.py libtorch --cuda yes and \
                 source .espalier/env.sh, or say with --cuda (ESPALIER_CUDA) in which folder it is"
            )
        })?;
        match usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
            0 => Err("there is no CUDA device that the driver knows: see nvidia-smi".to_owned()),
            count => Ok(count),
        }
    });
    count.clone()
}

/// The device of a name that [`Wanted::devices`] gave.
///
/// # Errors
/// If it is no such name, or the device is not there.
pub fn named(name: &str) -> Result<Device, String> {
    if name == CPU {
        return Ok(Device::Cpu);
    }
    let number = name.strip_prefix("cuda:");
    let number = number.and_then(|number| number.parse::<usize>().ok());
    let number = number.ok_or_else(|| format!("this is no device: {EXPECTED}"))?;
    match usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        count if number < count => Ok(Device::Cuda(number)),
        count => Err(format!("this worker has {count} CUDA device(s)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: what cannot be a device is refused with what could be.
    #[test]
    fn names_of_devices() {
        for (text, expected) in [
            ("auto", Wanted::Auto),
            ("cpu", Wanted::Cpu),
            ("cuda", Wanted::Cuda),
            ("cuda:1", Wanted::These(vec![1])),
            ("cuda:2,cuda:0", Wanted::These(vec![2, 0])),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:0,", "0", "cuda:-1"] {
            let error = text.parse::<Wanted>().unwrap_err();
            assert!(error.contains("cuda:0,cuda:1"), "{error}");
        }
        let twice = "cuda:0,cuda:0".parse::<Wanted>().unwrap_err();
        assert!(twice.contains("--ranks"), "{twice}");
    }

    // Promise: without CUDA, the CPU serves who leaves the choice, and who asks for CUDA is told why it is not there.
    #[test]
    fn without_cuda() {
        let nowhere = Some(Path::new("/nonexistent/libtorch"));
        assert_eq!(Wanted::Auto.devices(nowhere).unwrap(), ["cpu"]);
        assert_eq!(Wanted::Cpu.devices(nowhere).unwrap(), ["cpu"]);
        for (wanted, name) in [
            (Wanted::Cuda, "cuda"),
            (Wanted::These(vec![3, 0]), "cuda:3,cuda:0"),
        ] {
            let error = wanted.devices(nowhere).unwrap_err().to_string();
            let begins = error.starts_with(&format!("--device {name}: "));
            assert!(begins && error.contains("ESPALIER_CUDA"), "{error}");
            assert!(error.contains("/nonexistent/libtorch"), "{error}");
        }
        assert_eq!(named("cpu"), Ok(Device::Cpu));
        assert!(named("cuda:0").unwrap_err().contains("0 CUDA device"));
        assert!(named("tpu").is_err());
    }
}
