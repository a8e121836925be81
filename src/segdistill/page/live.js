// Segments the frames of a camera or a video file while it plays, one at a time: those in between are skipped.

const LIVE_SIDE = 960; // longest side of a frame that is segmented, in pixels

export class Live {
  /**
   * @param video the video element
   * @param onFrame called with a canvas that holds the frame; the next frame waits for its promise
   */
  constructor(video, onFrame) {
    Object.assign(this, { video, onFrame });
    this.open = false;
    this.current = null;
    this.starting = null;
  }

  /** Play a camera's stream or a video file; rejects where the browser cannot, or where another one is started. */
  async start(source) {
    this.stop();
    const { video } = this;
    const token = {};
    this.starting = token;
    const failed = new Promise((_, reject) => {
      video.onerror = () => reject(new Error(`this browser cannot play it (${video.error?.message || "unknown format"})`));
    });
    if (source instanceof Blob) video.src = URL.createObjectURL(source);
    else video.srcObject = source;
    this.open = true;
    try {
      await Promise.race([video.play(), failed]);
      if (!video.videoWidth) throw new Error("it has no pictures, only sound");
    } catch (error) {
      if (this.starting === token) this.stop(); // else the next one has stopped it, and plays in its place
      throw error.name === "NotSupportedError" ? new Error("this browser cannot play it") : error;
    }
    video.onerror = null;
    this.request();
  }

  /** Give camera and file back. */
  stop() {
    const { video } = this;
    this.open = false;
    this.current = null;
    this.starting = null;
    video.onerror = null;
    video.pause();
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    if (video.src) URL.revokeObjectURL(video.src);
    video.srcObject = null;
    video.removeAttribute("src");
    video.load();
  }

  request() {
    const token = {};
    this.current = token;
    const next = () => this.current === token && this.frame();
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(next);
    else requestAnimationFrame(next);
  }

  async frame() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, LIVE_SIDE / Math.max(videoWidth, videoHeight));
    const frame = new OffscreenCanvas(Math.max(1, Math.round(videoWidth * scale)), Math.max(1, Math.round(videoHeight * scale)));
    frame.getContext("2d", { willReadFrequently: true }).drawImage(this.video, 0, 0, frame.width, frame.height);
    await this.onFrame(frame);
    if (this.open) this.request();
  }
}
