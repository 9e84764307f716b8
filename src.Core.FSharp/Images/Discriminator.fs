namespace Hybrid

open TorchSharp

/// What a patch discriminator is (Isola and others 2017): convolutions that judge overlapping patches of a picture.
type DiscriminatorConfig =
    {
        /// Channels of a picture.
        Channels: int64
        /// Channels after the first convolution; each halving doubles them, up to eight times as many.
        Width: int64
        /// Halvings; 3 judge patches of 70 × 70 pixels.
        Layers: int
    }

/// A patch discriminator and the hinge losses. Its norms are group norms, so that the verdict on a picture does not depend on
/// the others of its batch. Axes: B pictures · C channels · H, W pixels · h, w verdicts.
module Discriminator =

    let private epsilon = 1e-5
    let private slope = 0.2

    /// The convolutions in their order: channels in, channels out, stride, whether a norm and an activation follow.
    let private convolutions (config: DiscriminatorConfig) =
        let width level = config.Width * pown 2L (min level 3)

        [
            config.Channels, config.Width, 2L, false
            for level in 1 .. config.Layers - 1 do
                width (level - 1), width level, 2L, true
            width (config.Layers - 1), width config.Layers, 1L, true
            width config.Layers, 1L, 1L, false
        ]

    /// Groups of a norm: at most 32, each with the same number of channels.
    let private groups (width: int64) = [ 1L .. 32L ] |> List.findBack (fun groups -> width % groups = 0L)

    /// Pixels that a side must have at least for a verdict.
    let smallestSide (layers: int) : int = 3 * pown 2 layers

    let private name (index: int) = $"discriminator.conv_{index + 1}"
    let private normName (index: int) = $"discriminator.norm_{index + 1}"

    /// The parameters. Convolutions start normal with deviation 0.02, norms as the identity, as in the published ones.
    let parameters (config: DiscriminatorConfig) : ParameterSpec list =
        [
            for index, (input, output, _, norm) in List.indexed (convolutions config) do
                { Name = name index + ".weight"; Shape = [ output; input; 4L; 4L ]; Init = TruncatedNormal 0.02 }

                { Name = name index + ".bias"; Shape = [ output ]; Init = Zeros }

                if norm then
                    { Name = normName index + ".weight"; Shape = [ output ]; Init = Ones }
                    { Name = normName index + ".bias"; Shape = [ output ]; Init = Zeros }
        ]

    /// Verdicts on the patches of pictures, with their graph; high means real. images_BCHW: [B, C, H, W], centred on 0.5, no side
    /// below `smallestSide`. Returns float32 [B, 1, h, w].
    let verdicts (config: DiscriminatorConfig) (weights: Weights) (images_BCHW: torch.Tensor) : torch.Tensor =
        let layers = convolutions config
        let last = layers.Length - 1

        let layer (x: torch.Tensor) (index: int, (_, output, stride, norm)) =
            let y =
                torch.nn.functional.conv2d (
                    x,
                    weights (name index + ".weight"),
                    weights (name index + ".bias"),
                    [| stride; stride |],
                    [| 1L; 1L |]
                )

            let y =
                if norm then
                    torch.nn.functional.group_norm (
                        y,
                        groups output,
                        weights (normName index + ".weight"),
                        weights (normName index + ".bias"),
                        epsilon
                    )
                else
                    y

            if index = last then y else y.leaky_relu (Scalars.Of slope)

        let precision = (weights (name 0 + ".weight")).dtype
        let x = images_BCHW.sub(Scalars.Of 0.5).mul(Scalars.Of 2.0).``to`` precision
        (List.fold layer x (List.indexed layers)).``to`` torch.float32

    /// What the discriminator minimises: ½ mean max (0, 1 − real) + ½ mean max (0, 1 + fake).
    let hinge (real: torch.Tensor) (fake: torch.Tensor) : torch.Tensor =
        let real = real.neg().plus(1.0).relu().mean()
        let fake = fake.plus(1.0).relu().mean()
        real.plus(fake).mul(Scalars.Of 0.5)

    /// What the tokenizer minimises beside its other losses: − mean of the verdicts on its pictures.
    let generator (fake: torch.Tensor) : torch.Tensor = fake.mean().neg()
