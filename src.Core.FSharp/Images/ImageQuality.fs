namespace Hybrid

open System
open TorchSharp

/// How much of a picture is left after a tokenizer: measures over pairs of pictures, values in [0, 1].
/// Axes: B pictures · C channels · H, W pixels.
module ImageQuality =

    let private same (original_BCHW: torch.Tensor) (reconstruction_BCHW: torch.Tensor) =
        Shape.require "original" [ -1L; -1L; -1L; -1L ] original_BCHW
        Shape.require "reconstruction" (List.ofArray original_BCHW.shape) reconstruction_BCHW

    let private both (original_BCHW: torch.Tensor) (reconstruction_BCHW: torch.Tensor) =
        same original_BCHW reconstruction_BCHW
        original_BCHW.detach().``to`` torch.float64, reconstruction_BCHW.detach().``to`` torch.float64

    let private floats (values_B: torch.Tensor) : float[] = values_B.cpu().contiguous().data<float>().ToArray()

    /// Peak signal-to-noise ratio of each picture in decibels, 10 log10 (1 / mean squared error over channels and pixels);
    /// infinite for equal pictures. Both [B, C, H, W]. Returns B numbers. Errors: ShapeException when the shapes differ.
    let psnr (original_BCHW: torch.Tensor) (reconstruction_BCHW: torch.Tensor) : float[] =
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let original, reconstruction = both original_BCHW reconstruction_BCHW
        let difference = original - reconstruction
        let errors_B = (difference * difference).mean([| 1L; 2L; 3L |])
        floats errors_B |> Array.map (fun error -> -10.0 * Math.Log10 error)

    /// Mean absolute difference of each picture. Both [B, C, H, W]. Returns B numbers. Errors: ShapeException when the shapes
    /// differ.
    let l1 (original_BCHW: torch.Tensor) (reconstruction_BCHW: torch.Tensor) : float[] =
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()
        let original, reconstruction = both original_BCHW reconstruction_BCHW
        floats ((original - reconstruction).abs().mean [| 1L; 2L; 3L |])

    /// Pixels along a side of SSIM's window, and its deviation.
    let ssimWindow = 11

    let private deviation = 1.5

    let private window: float[] =
        let middle = ssimWindow / 2

        let weights =
            Array.init ssimWindow (fun i -> Math.Exp(-float((i - middle) * (i - middle)) / (2.0 * deviation * deviation)))

        Array.map (fun weight -> weight / Array.sum weights) weights

    /// The Gaussian window's mean around every pixel that it fits around: [H, W] -> [H − 10, W − 10].
    let private blurred (x_HW: torch.Tensor) =
        let along (axis: int64) (x: torch.Tensor) =
            use scope = torch.NewDisposeScope()
            let length = x.shape[int axis] - int64 ssimWindow + 1L
            let sum = x.narrow(axis, 0L, length).mul(Scalars.Of window[0])

            for k in 1 .. ssimWindow - 1 do
                sum.add_ (x.narrow (axis, int64 k, length), Scalars.Of window[k]) |> ignore

            scope.MoveToOuter sum

        x_HW |> along 0L |> along 1L

    /// The sum of SSIM over the places of a part of a channel, both [H, W].
    let private similarity (x_HW: torch.Tensor) (y_HW: torch.Tensor) : float =
        use _ = torch.NewDisposeScope()
        let c1, c2 = 0.01 * 0.01, 0.03 * 0.03
        let two = Scalars.Of 2.0
        let x, y = x_HW.``to`` torch.float64, y_HW.``to`` torch.float64
        let meanX, meanY = blurred x, blurred y
        let squareX, squareY, product = meanX * meanX, meanY * meanY, meanX * meanY
        let varianceX, varianceY = blurred (x * x) - squareX, blurred (y * y) - squareY
        let covariance = blurred (x * y) - product
        let above = product.mul(two).plus c1 * covariance.mul(two).plus c2
        let below = squareX.plus(squareY).plus c1 * varianceX.plus(varianceY).plus c2
        floats ((above / below).sum().reshape 1L) |> Array.head

    /// Pixels of a channel that are looked at together: memory stays below 100 MiB whatever the picture's size.
    let private together = 1L <<< 20

    /// Structural similarity of each picture (Wang, Bovik, Sheikh & Simoncelli 2004): Gaussian window of 11 × 11 with deviation
    /// 1.5, K1 = 0.01, K2 = 0.03, range 1, biased variances; the mean over the places where the window lies inside the picture
    /// and over the channels, each channel on its own. These are the conventions of scikit-image with gaussian_weights and
    /// use_sample_covariance=False, and of torchmetrics; the paper itself measures luma. In double precision.
    /// Both [B, C, H, W]. Returns B numbers at most 1, NaN where a side has fewer than 11 pixels.
    /// Errors: ShapeException when the shapes differ.
    let ssim (original_BCHW: torch.Tensor) (reconstruction_BCHW: torch.Tensor) : float[] =
        same original_BCHW reconstruction_BCHW
        use _ = torch.no_grad ()
        let shape = original_BCHW.shape
        let height, width = shape[2] - int64 ssimWindow + 1L, shape[3] - int64 ssimWindow + 1L
        let rows = max 1L (together / shape[3])

        let picture (index: int64) =
            Seq.sum (
                seq {
                    for channel in 0L .. shape[1] - 1L do
                        for top in 0L .. rows .. height - 1L do
                            use _ = torch.NewDisposeScope()
                            let length = min rows (height - top) + int64 ssimWindow - 1L
                            let part (x: torch.Tensor) = x.select(0L, index).select(0L, channel).narrow(0L, top, length)
                            similarity (part original_BCHW) (part reconstruction_BCHW)
                }
            )
            / float (shape[1] * height * width)

        if height < 1L || width < 1L then
            Array.create (int shape[0]) nan
        else
            [| for index in 0L .. shape[0] - 1L -> picture index |]
