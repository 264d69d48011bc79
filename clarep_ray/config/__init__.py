"""Frozen, validated configurations of every job.

Fields marked `EXECUTION` say how or where a run is done; every other field is part of the run's fingerprint.
"""

from clarep_ray.config.benchmark import EngineBenchmarkConfig, SizeBenchmarkConfig, SvdBenchmarkConfig
from clarep_ray.config.calibrate import (
    CALIBRATION_PARTS,
    CalibrateConfig,
    CalibrationPart,
    DrawsConfig,
    FeatureMapConfig,
    InteractionConfig,
    SaturationConfig,
    WindowConfig,
)
from clarep_ray.config.distill import (
    METHODS_WITH_CLAREPS,
    TEACHERS,
    ClarepsConfig,
    DistillConfig,
    DistillMethod,
    LossConfig,
    TeacherConfig,
)
from clarep_ray.config.engine import EngineConfig
from clarep_ray.config.evaluate import (
    ApgdConfig,
    AttacksConfig,
    BenchmarksConfig,
    ClassifierConfig,
    CwConfig,
    EvaluateConfig,
    PgdConfig,
    SquareConfig,
    TrustConfig,
)
from clarep_ray.config.extract import (
    DataConfig,
    DecodingConfig,
    DigitsConfig,
    DigitsSplit,
    ElbowConfig,
    ElbowRule,
    ExtractConfig,
    FeatureConfig,
    InversionConfig,
    ModelConfig,
    PathSolver,
    Precision,
    ProjectionConfig,
    Solver,
    Source,
    SpectrumConfig,
)
from clarep_ray.config.output import OutputConfig, OutputKind
from clarep_ray.config.projection import PROJECTION_MODES, Extra, ProjectionMode, parse_extra
from clarep_ray.config.student import AugmentConfig, OptimizerConfig, ScheduleConfig, SecondStageConfig, StudentConfig
from clarep_ray.config.toy import ToyConfig
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.config.train_cdm import DitSizes, TrainCdmConfig, UnetSizes

__all__ = [
    "CALIBRATION_PARTS",
    "METHODS_WITH_CLAREPS",
    "PROJECTION_MODES",
    "TEACHERS",
    "ApgdConfig",
    "AttacksConfig",
    "AugmentConfig",
    "BenchmarksConfig",
    "CalibrateConfig",
    "CalibrationPart",
    "ClarepsConfig",
    "ClassifierConfig",
    "CwConfig",
    "DataConfig",
    "DecodingConfig",
    "DigitsConfig",
    "DigitsSplit",
    "DistillConfig",
    "DistillMethod",
    "DitSizes",
    "DrawsConfig",
    "ElbowConfig",
    "ElbowRule",
    "EngineBenchmarkConfig",
    "EngineConfig",
    "EvaluateConfig",
    "Extra",
    "ExtractConfig",
    "FeatureConfig",
    "FeatureMapConfig",
    "InteractionConfig",
    "InversionConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OutputConfig",
    "OutputKind",
    "PathSolver",
    "PgdConfig",
    "Precision",
    "ProjectionConfig",
    "ProjectionMode",
    "SaturationConfig",
    "ScheduleConfig",
    "SecondStageConfig",
    "SizeBenchmarkConfig",
    "Solver",
    "Source",
    "SpectrumConfig",
    "SquareConfig",
    "StudentConfig",
    "SvdBenchmarkConfig",
    "TeacherConfig",
    "ToyConfig",
    "TrackingConfig",
    "TrainCdmConfig",
    "TrustConfig",
    "UnetSizes",
    "WindowConfig",
    "parse_extra",
]
