# frozen_string_literal: true

# All tests: ruby -w -Ilib -Itest test/run.rb [options of minitest]
$LOAD_PATH.unshift(File.expand_path("../lib", __dir__), __dir__)
require "helper"
Dir[File.join(__dir__, "*_test.rb")].each { |file| require file }
