/// What an image tokenizer's training is.
namespace Hybrid

/// The kinds of image tokenizer that can be trained.
type TrainedKind =
    /// A convolutional VQ-VAE
    | PhotoKind
    /// MoVQ: group norms, and in the decoder norms that the quantised map modulates
    | MoVqKind

/// What moves the codes' vectors.
type CodebookMover =
    /// Exponential moving averages of the vectors assigned to each code
    | MovingAverages
    /// The gradient of their distance to these vectors
    | Gradients

/// Which square of a training picture a step sees.
type PictureCrop =
    | CentreCrop
    | RandomCrop

/// A discriminator that is trained beside the tokenizer.
type AdversarialConfig =
    {
        /// Weight of its verdict in the tokenizer's loss; 0: no discriminator
        Weight: float
        /// The step from which on it takes part
        StartStep: int
        /// Whether its weight follows the gradients of the reconstruction and of the verdict at the last convolution
        Adaptive: bool
        Width: int
        Layers: int
        /// The tokenizer's own rate where it is absent
        LearningRate: float option
    }

/// The training of an image tokenizer.
type ImageTrainConfig =
    {
        Kind: TrainedKind
        /// Pixels of a side of the training squares
        ImageSize: int
        /// Folders, tars and tables of pictures
        Inputs: string list
        /// Share of the pictures that is held out, and the most of them
        HeldOutShare: float
        HeldOutMost: int
        Crop: PictureCrop
        /// Pixels of the short side of a picture that random squares are cut from
        ShortSide: int
        /// Whether half of the pictures are mirrored
        Flip: bool
        Width: int
        /// Channels of each level in multiples of the width
        Multipliers: int list
        /// Residual blocks: of each stack (vqvae), of each level (movq)
        Blocks: int
        /// Channels inside a residual block of a vqvae
        InnerWidth: int
        /// Levels of a movq that have attention
        Attention: int list
        Codes: int
        CodeWidth: int
        Mover: CodebookMover
        Codebook: Codebook.Learning
        /// Weight of the vectors' distance to their codes
        Commitment: float
        /// Weight of the codes' distance to their vectors, where gradients move them
        CodebookWeight: float
        /// Pictures whose vectors the codes start from
        InitialPictures: int
        /// Weights of the mean absolute and the mean squared error
        L1: float
        L2: float
        Adversarial: AdversarialConfig
        Betas: float * float
        Epsilon: float
        WeightDecay: float
        ClipNorm: float option
        Schedule: Schedule
        Pictures: int
        MicroBatch: int
        /// Decay of the moving average of the weights that is measured and kept; 0: the weights themselves
        AverageDecay: float
        Precision: Precision
        CheckpointEvery: int
        Seed: int64
    }
