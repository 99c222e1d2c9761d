# frozen_string_literal: true

require "json"

# The lines that a contestant in Ruby speaks with the runner: see ../README.md.
module Bench
  ROLE = ARGV.fetch(0)
  PLACE = JSON.parse(ARGV.fetch(1)).freeze
  TIMEOUT_S = 30 # that a call may take
  SLOW_S = 0.04 # that the handler of a call that is to time out waits; the call's own time-out is half of it

  # One order of the runner: when to stop, and what came of it. Threads may share one.
  class Tally
    attr_reader :in_flight, :text

    def initialize(order)
      @in_flight = order["in_flight"]
      @text = "x" * order["bytes"]
      @time_outs = order.fetch("time_outs", 0)
      @left = order.fetch("calls", 1 << 60)
      @keeps = order.key?("seconds") # the time of each call; where memory is measured it would be our own
      @took = []
      @answered = @timed_out = @wrong = 0
      @began = Bench.monotonic
      @ends = @began + order.fetch("seconds", 1e6)
    end

    # @yield [Boolean] once for each call of a lane, until it is time to stop; true where the call is to time out
    def turns
      while @left.positive? && Bench.monotonic < @ends
        @left -= 1
        yield @time_outs.positive? && (@left % @time_outs).zero?
      end
    end

    # @param begun [Float] when the call began, by {Bench.monotonic}
    def took(begun, result)
      @answered += 1
      @took << (Bench.monotonic - begun) if @keeps
      @wrong += 1 unless result == @text
    end

    def timed_out = @timed_out += 1

    # @return [String] the answer to the order
    def told
      seconds = Bench.monotonic - @began
      took = @took.sort
      p50, p99 = [0.5, 0.99].map { |share| took.empty? ? nil : took[(took.size * share).floor] * 1e6 }
      JSON.generate({ calls: @answered + @timed_out, seconds: seconds, p50_us: p50, p99_us: p99,
                      timed_out: @timed_out, wrong: @wrong })
    end
  end

  module_function

  # @return [Float] seconds since some moment; never jumps
  def monotonic = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # To be called when the worker serves, or the client has had its first answer.
  def ready = say("ready")

  # Ends this process when the runner closes its input, whatever else it is doing.
  def until_the_end
    Thread.new do
      nil while $stdin.read(65_536)
      exit!(true)
    end
  end

  # A client: carries out the runner's orders, with a thread for each call in flight.
  # @param late [#call, nil] makes a call that times out
  # @yield [text] makes a call
  # @yieldreturn [String] what it was given, from the worker
  def orders(late = nil, &call)
    call.call("x" * 100)
    ready
    $stdin.each_line do |line|
      tally = Tally.new(JSON.parse(line))
      lanes = Array.new(tally.in_flight - 1) { Thread.new { lane(tally, late, call) } }
      lane(tally, late, call)
      lanes.each(&:join)
      say(tally.told)
    end
  end

  def lane(tally, late, call)
    tally.turns do |times_out|
      if times_out
        late.call
        tally.timed_out
      else
        begun = monotonic
        tally.took(begun, call.call(tally.text))
      end
    end
  end

  def say(line)
    puts line
    $stdout.flush
  end
end
