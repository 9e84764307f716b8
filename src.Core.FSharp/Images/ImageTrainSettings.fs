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
    /// The largest one in its middle
    | CentreCrop
    /// A seeded one of the resized picture
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
        /// Channels of its first convolution, doubled by each layer up to eight times
        Width: int
        /// Convolutions that halve the map
        Layers: int
        /// The tokenizer's own rate where it is absent
        LearningRate: float option
    }

/// The training of an image tokenizer.
type ImageTrainConfig =
    {
        /// Which tokenizer is trained
        Kind: TrainedKind
        /// Pixels of a side of the training squares
        ImageSize: int
        /// Folders, tars and tables of pictures
        Inputs: string list
        /// Share of the pictures that is held out, and the most of them
        HeldOutShare: float
        /// The most pictures that are held out
        HeldOutMost: int
        /// Which square of a picture a step sees
        Crop: PictureCrop
        /// Pixels of the short side of a picture that random squares are cut from
        ShortSide: int
        /// Whether half of the pictures are mirrored
        Flip: bool
        /// Channels of the finest level
        Width: int
        /// Channels of each level in multiples of the width
        Multipliers: int list
        /// Residual blocks: of each stack (vqvae), of each level (movq)
        Blocks: int
        /// Channels inside a residual block of a vqvae
        InnerWidth: int
        /// Levels of a movq that have attention
        Attention: int list
        /// K, the codebook's size
        Codes: int
        /// Numbers of a code's vector
        CodeWidth: int
        /// What moves the codes
        Mover: CodebookMover
        /// How moving averages move them, and when a code is put elsewhere
        Codebook: Codebook.Learning
        /// Weight of the vectors' distance to their codes
        Commitment: float
        /// Weight of the codes' distance to their vectors, where gradients move them
        CodebookWeight: float
        /// Pictures whose vectors the codes start from
        InitialPictures: int
        /// Weights of the mean absolute and the mean squared error
        L1: float
        /// Weight of the mean squared error
        L2: float
        /// The discriminator beside it
        Adversarial: AdversarialConfig
        /// AdamW's two
        Betas: float * float
        /// AdamW's
        Epsilon: float
        /// AdamW's, on matrices
        WeightDecay: float
        /// Largest global gradient norm; none when absent
        ClipNorm: float option
        /// Learning rate by step
        Schedule: Schedule
        /// Pictures of a step
        Pictures: int
        /// Pictures that are in memory together
        MicroBatch: int
        /// Decay of the moving average of the weights that is measured and kept; 0: the weights themselves
        AverageDecay: float
        /// Of the network; the codebook is fp32
        Precision: Precision
        /// Steps between checkpoints
        CheckpointEvery: int
        /// Of weights, order, squares and held-out pictures
        Seed: int64
    }
